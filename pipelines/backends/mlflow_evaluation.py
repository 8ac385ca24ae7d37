"""Grades of replies as assessments of MLflow's evaluation, which its UI shows reply by reply. It grades nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "llm_judge"


def assess(uri: str, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put rows {"id", "arm", "question", "answer", "gold", "found_right"} into the run as evaluated traces; a grade
    that could not be read (None) is left out. BackendError when MLflow refuses."""
    import mlflow
    from mlflow.entities import Feedback
    from mlflow.exceptions import MlflowException
    from mlflow.genai.scorers import scorer

    from pipelines.errors import BackendError

    grades = {(row["arm"], row["id"]): row["found_right"] for row in rows if row["found_right"] is not None}

    @scorer(name=NAME)
    def graded(inputs: dict[str, Any]) -> Feedback:
        return Feedback(value="yes" if grades[inputs["arm"], inputs["id"]] else "no")

    data = [
        {
            "inputs": {name: row[name] for name in ("question", "arm", "id")},
            "outputs": row["answer"],
            "expectations": {"expected_response": row["gold"]},
        }
        for row in rows
        if (row["arm"], row["id"]) in grades
    ]
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment(experiment_id=mlflow.get_run(run_id).info.experiment_id)
        with mlflow.start_run(run_id=run_id):
            mlflow.genai.evaluate(data=data, scorers=[graded])
    except MlflowException as exc:
        raise BackendError(f"MLflow: logging the judge's grades: {str(exc).splitlines()[0]}") from exc
