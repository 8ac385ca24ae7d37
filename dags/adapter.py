"""Airflow DAG NAME_adapter: from gold questions and examples to a LoRA adapter."""

from dags._render import render

globals().update(render("adapter"))
