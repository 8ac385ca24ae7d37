"""Airflow wiring: dvc.yaml rendered as DAGs. No work happens here."""
