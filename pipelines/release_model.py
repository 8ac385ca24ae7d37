"""A release as an MLflow pyfunc model, kept as code beside its signed manifest; nothing is pickled.

MLflow copies this file into every model version and runs it at load (`mlflow.pyfunc.load_model` of
`models:/NAME@champion`, `mlflow models serve`). It answers through the same function as `assay ask`, and decides
nothing itself. It needs the `assay` package and an ASSAY_HOME that holds the release's objects and the public key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel

COLUMN = "question"


class ReleaseModel(PythonModel):
    """Questions in (a list, or a frame whose column `question`, else whose first column, holds them); a frame with
    `answer`, `citations` (JSON) and `generation` out, a row per question.

    The param `labels` names the reader's access labels, separated by commas; without it one gets what is public."""

    def load_context(self, context: Any) -> None:
        """Verify the manifest that this version was made of; IntegrityError when it was altered."""
        from pipelines.actions.ask import Service
        from pipelines.settings import Settings
        from pipelines.signing import public_file, read_public_key, unseal

        settings = Settings.from_env()
        envelope = Path(context.artifacts["release"]).read_bytes()
        key = read_public_key(public_file(settings.signing_key))
        self.service = Service(settings, unseal(envelope, key, subject="the model's release"))

    # Without type hints: MLflow would derive a schema from them and refuse frames.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer each question; IntegrityError and BadInput as `assay ask` raises them."""
        import pandas as pd

        column = model_input[COLUMN] if COLUMN in model_input else model_input.iloc[:, 0]
        labels = [label.strip() for label in str((params or {}).get("labels") or "").split(",") if label.strip()]
        replies = self.service.answer([str(question) for question in column], labels=labels)
        return pd.DataFrame(
            {
                "answer": [reply["answer"] for reply in replies],
                "citations": [json.dumps(reply["citations"], ensure_ascii=False) for reply in replies],
                "generation": [reply["release"]["generation"] for reply in replies],
            }
        )


mlflow.models.set_model(ReleaseModel())
