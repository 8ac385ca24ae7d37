"""Airflow DAG upkeep: every five minutes, the release log's projections are repaired."""

from dags._render import upkeep

globals().update(upkeep())
