"""Airflow DAG NAME_release: score the arms, judge the candidate, publish what passes."""

from dags._render import render

globals().update(render("release"))
