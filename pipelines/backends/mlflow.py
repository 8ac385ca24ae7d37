"""Runs and registered models in MLflow, on an SQLite file or a tracking server.

One experiment per corpus, named after it. A run that carries the tag `assay.key` is made once: when a finished run
of that key exists, it is handed back and what is written into it again is dropped, so a stage killed after its run
does not log twice. A model version that carries the tag `assay.digest` is registered once, alike.
MLflow costs 7 CPU-seconds to import: nothing of it is imported before the first call. It decides nothing: MLflow is
a projection of receipts and of the release log.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.errors import BackendError, NotFound
from pipelines.locks import exclusive
from pipelines.settings import QUIET

_BATCH = 100  # MLflow's limit of params or tags in one call
Lock = Callable[[], AbstractContextManager[None]]


@contextmanager
def _said_plainly(doing: str) -> Iterator[None]:
    """MLflow's and SQLAlchemy's errors as a BackendError that says what was being done."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as exc:
        raise BackendError(f"MLflow: {doing}: {str(exc).splitlines()[0]}") from exc


@contextmanager
def _found(name: str, version: int) -> Iterator[None]:
    """MLflow's error on a model version as NotFound, any other as a BackendError."""
    from mlflow.exceptions import MlflowException

    with _said_plainly(f"model {name} version {version}"):
        try:
            yield
        except MlflowException as exc:
            if exc.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise NotFound(f"MLflow has no version {version} of model {name!r}") from exc


def metric_name(name: str) -> str:
    """MLflow refuses `@` in names: `ndcg@10` is shown as `ndcg_at_10`, as MLflow's own metrics are."""
    return name.replace("@", "_at_")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


class MlflowRun:
    """A `ports.RunLog`. When `settled`, the run was finished before: writes are dropped.

    `alone` makes the registry's file lock: MLflow fails when two runs log the same data set at once.
    """

    def __init__(self, client: Any, run_id: str, *, alone: Lock, settled: bool = False) -> None:
        self._client = client
        self._alone = alone
        self.run_id = run_id
        self.settled = settled

    def params(self, values: Mapping[str, Any]) -> None:
        """Nested mappings become dotted names; what is not text is written as JSON."""
        from mlflow.entities import Param

        if not self.settled:
            items = [Param(metric_name(key), value) for key, value in _flat(values)]
            with _said_plainly("logging params"):
                for start in range(0, len(items), _BATCH):
                    self._client.log_batch(self.run_id, params=items[start : start + _BATCH])

    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Finite numbers; anything else has no place on an axis and is left out."""
        from mlflow.entities import Metric

        if not self.settled:
            now = int(time.time() * 1000)
            kept = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
            with _said_plainly("logging metrics"):
                self._client.log_batch(
                    self.run_id, metrics=[Metric(metric_name(k), v, now, step or 0) for k, v in kept.items()]
                )

    def dataset(self, name: str, *, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """An input of the run. MLflow keeps 36 characters of a digest; the whole digest is in the profile."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not self.settled:
            entity = Dataset(
                name=name,
                digest=digest[:36],
                source_type="local",
                source=json.dumps({"uri": source}),
                profile=json.dumps({**profile, "digest": digest}, default=str),
            )
            tags = [InputTag("mlflow.data.context", context)]
            with self._alone(), _said_plainly(f"logging dataset {name}"):
                self._client.log_inputs(self.run_id, [DatasetInput(entity, tags)])

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """`NAME.json` in the form that the UI's artifact and evaluation views show; no rows, no table."""
        if not self.settled and rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            data = {column: [row.get(column) for row in rows] for column in columns}
            with _said_plainly(f"logging table {name}"):
                self._client.log_table(self.run_id, data, f"{name}.json")

    def figure(self, name: str, figure: Any) -> None:
        """`plots/NAME.png` of a matplotlib figure."""
        if not self.settled:
            with _said_plainly(f"logging figure {name}"):
                self._client.log_figure(self.run_id, figure, f"plots/{name}.png")

    def text(self, name: str, text: str) -> None:
        """A file NAME that holds `text`."""
        if not self.settled:
            with _said_plainly(f"logging {name}"):
                self._client.log_text(self.run_id, text, name)

    def folder(self, path: Path, *, name: str) -> None:
        """The files below `path` as the artifact folder `name`."""
        if not self.settled:
            with _said_plainly(f"logging folder {name}"):
                self._client.log_artifacts(self.run_id, str(path), name)

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if not self.settled:
            with _said_plainly("logging tags"):
                self._client.log_batch(self.run_id, tags=[RunTag(k, str(v)) for k, v in values.items()])


def _made_whole(database: Path) -> None:
    """A database with all its tables, made beside its place and renamed: MLflow cannot open one whose making was
    killed. Readers (the UI) and a writer do not block each other in the WAL mode, which stays with the file."""
    from mlflow import MlflowClient

    if database.exists():
        return
    building = database.with_suffix(".building")
    for left in database.parent.glob(f"{building.name}*"):
        left.unlink()
    uri = f"sqlite:///{building}"
    made = MlflowClient(uri, registry_uri=uri)
    made.search_experiments(max_results=1)
    made.search_registered_models(max_results=1)
    for store in (made._tracking_client.store, made._get_registry_client().store):
        store.engine.dispose()  # a connection that stays open on a renamed file knows nothing of its WAL
    with sqlite3.connect(building) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    building.replace(database)


class MlflowRegistry:
    """A `ports.Registry`. `uri` is `sqlite:///FILE` or a server's address; `artifacts` is where an SQLite-backed
    experiment keeps its files (a server decides that itself)."""

    def __init__(self, uri: str, *, artifacts: Path) -> None:
        self.uri = uri
        self.artifacts = artifacts

    @property
    def _database(self) -> Path | None:
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time, by a file lock beside the database; a server has its own order."""
        if self._database is None:
            yield
            return
        with exclusive(self._database.with_suffix(".lock"), patience=600, what="MLflow's database"):
            yield

    @cached_property
    def _client(self) -> Any:
        """The client, with the database created and migrated by exactly one process."""
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        import logging

        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        with self._alone(), _said_plainly(f"opening {self.uri}"):
            if self._database is not None:
                _made_whole(self._database)
            client = MlflowClient(self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        return client

    def prepare(self) -> None:
        """Create and migrate the database, so that a server started next finds it whole."""
        _ = self._client

    def _experiment(self, corpus: str) -> str:
        client = self._client
        found = client.get_experiment_by_name(corpus)
        if found is None:
            with self._alone():
                found = client.get_experiment_by_name(corpus)
                if found is None:
                    where = None if self._database is None else (self.artifacts / corpus).as_uri()
                    return str(client.create_experiment(corpus, artifact_location=where))
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _earlier(self, experiment: str, key: str) -> str | None:
        """The finished run of that key; a run that a killed process left behind is closed as KILLED."""
        client = self._client
        finished = None
        for run in client.search_runs([experiment], f"tags.`assay.key` = '{key}'", order_by=["start_time ASC"]):
            if run.info.status == "FINISHED":
                finished = finished or str(run.info.run_id)
            elif run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
        return finished

    @contextmanager
    def run(self, corpus: str, name: str, *, tags: Mapping[str, str]) -> Iterator[MlflowRun]:
        """A run of the corpus's experiment: FINISHED at the end of the block, FAILED when it raises.

        With a tag `assay.key`, the finished run of that key is given back instead, and not written to.
        """
        client = self._client
        with _said_plainly(f"starting run {name}"):
            experiment = self._experiment(corpus)
            earlier = self._earlier(experiment, tags["assay.key"]) if "assay.key" in tags else None
            if earlier is None:
                run = client.create_run(experiment, run_name=name, tags={k: str(v) for k, v in tags.items()})
        if earlier is not None:
            yield MlflowRun(client, earlier, alone=self._alone, settled=True)
            return
        run_id = run.info.run_id
        try:
            yield MlflowRun(client, run_id, alone=self._alone)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        with _said_plainly(f"ending run {name}"):
            client.set_terminated(run_id, "FINISHED")

    def version(self, name: str, digest: str) -> int | None:
        """The version of model `name` whose tag `assay.digest` is `digest`, or None."""
        with _said_plainly(f"searching versions of {name}"):
            found = self._client.search_model_versions(f"name = '{name}' and tag.`assay.digest` = '{digest}'")
        return min((int(v.version) for v in found), default=None)

    def register(self, name: str, *, run_id: str, path: str, description: str, tags: Mapping[str, str]) -> int:
        """Version of model `name` made of the run's artifact folder `path`; the one there is, when the tag
        `assay.digest` is already registered."""
        client = self._client
        with self._alone(), _said_plainly(f"registering {name}"):
            if "assay.digest" in tags and (known := self.version(name, tags["assay.digest"])) is not None:
                return known
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            source = f"{client.get_run(run_id).info.artifact_uri}/{path}"
            made = client.create_model_version(
                name, source, run_id=run_id, tags={k: str(v) for k, v in tags.items()}, description=description
            )
        return int(made.version)

    def alias(self, name: str, alias: str, version: int) -> None:
        """Point `name@alias` at a version. NotFound when there is no such version."""
        with _found(name, version):
            self._client.set_registered_model_alias(name, alias, str(version))

    def tags(self, name: str, version: int) -> dict[str, str]:
        """The tags of a version, as they are now. NotFound."""
        with _found(name, version):
            return dict(self._client.get_model_version(name, str(version)).tags)

    def tag(self, name: str, version: int, values: Mapping[str, str]) -> None:
        """Set tags of a version, in the order given. NotFound."""
        with _found(name, version):
            for key, value in values.items():
                self._client.set_model_version_tag(name, str(version), key, value)


def write_model(folder: Path, *, code: Path, artifacts: Mapping[str, Path]) -> None:
    """An MLflow pyfunc model from code (nothing is pickled): `code` is run at load, `artifacts` are copied in.

    The signature is one unnamed column of text, which takes a list of questions and a frame alike, and the param
    `labels`, the reader's access labels: MLflow hands on no param that the signature does not name.
    """
    import logging
    import warnings

    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    outputs = Schema([ColSpec("string", "answer"), ColSpec("string", "citations"), ColSpec("long", "generation")])
    labels = ParamSchema([ParamSpec("labels", "string", "")])
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    # Recorded and dropped: hints about type hints and input examples, which the signature replaces. MLflow puts a
    # filter of its own in front of ours, so ignoring them is not enough.
    with warnings.catch_warnings(record=True), _said_plainly("writing the model"):
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(code),
            artifacts={name: str(path) for name, path in artifacts.items()},
            signature=ModelSignature(inputs=Schema([ColSpec("string")]), outputs=outputs, params=labels),
            pip_requirements=[f"mlflow=={mlflow.__version__}", "assay"],
        )
