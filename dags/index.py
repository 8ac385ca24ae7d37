"""Airflow DAG NAME_index: from a corpus revision to a sealed, scored Milvus collection."""

from dags._render import render

globals().update(render("index"))
