"""Airflow DAG NAME_corpus: fetch, check and version the documents of every corpus in params.yaml."""

from dags._render import render

globals().update(render("corpus"))
