"""params.yaml -> frozen pydantic models. Unknown keys are refused; an error is one line that shows the valid form.

Parsed once, here; below the stages, arguments are flat and typed. Nothing heavy is imported: DAG files use this.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.core.names import CORPUS_FORM, LABEL_FORM, valid_corpus_name, valid_label
from pipelines.errors import BadConfig, NotFound

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["fp32", "bf16", "int8"]
Arm = Literal["base", "prompt", "rag", "tuned", "both"]
Task = Literal["answer", "sql", "label"]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Tuned = Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$", exclude_if=lambda value: value is None)]
"""Digest of a model that `assay tune` made. Where `model` names a tuned one it is filled in with the newest, so that
what is judged and released names its very model; else it is left out."""


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as exc:
        raise ValueError(f"is no regular expression: {exc}") from exc
    return value


Pattern = Annotated[str, AfterValidator(_pattern)]
Region = Annotated[str, Field(pattern="^[A-Z]{2}$")] | None


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Section):
    """Paths; relative ones are relative to params.yaml, `$ASSAY_HOME/` is the home folder."""

    documents: str
    questions: str | None = None
    examples: str | None = None


def _label(value: str) -> str:
    if not valid_label(value):
        raise ValueError(f"is no access label; a label is {LABEL_FORM}")
    return value


Label = Annotated[str, AfterValidator(_label)]


class Fetch(Section):
    """`access`: glob on document ids -> access label; of those that match the last counts."""

    max_document_mb: Annotated[float, Field(gt=0)]
    access: Mapping[Annotated[str, Field(min_length=1)], Label] = {}


class CheckParams(Section):
    min_documents: Count
    min_characters: Annotated[int, Field(ge=0)]
    max_quarantined: Share
    suspicious: Literal["hold", "report", "off"] = "hold"
    reviewed: tuple[Pattern, ...] = ()
    sensitive: Literal["report", "quarantine", "redact"] = "report"
    allow: tuple[Pattern, ...] = ()
    region: Region = None


class ChunkParams(Section):
    min_tokens: Count
    max_tokens: Count
    overlap: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _ordered(self) -> ChunkParams:
        if not self.overlap < self.min_tokens <= self.max_tokens:
            raise ValueError("overlap < min_tokens <= max_tokens must hold")
        return self


class Embed(Section):
    model: ModelName
    tuned: Tuned = None
    precision: Precision
    batch_tokens: Annotated[int, Field(ge=256)]
    partitions: Count


class Index(Section):
    type: Literal["auto", "FLAT", "HNSW"]
    metric: Literal["COSINE"]


class Rerank(Section):
    model: ModelName
    tuned: Tuned = None
    depth: Annotated[int, Field(ge=1, le=200)]


class Retrieve(Section):
    mode: Literal["dense", "bm25", "hybrid"]
    alpha: Annotated[float | None, Field(ge=0, le=1, exclude_if=lambda value: value is None)] = None
    k: Annotated[int, Field(ge=1, le=50)]
    rerank: Rerank | None = None
    per_document: Annotated[int | None, Field(ge=1, exclude_if=lambda value: value is None)] = None


class Split(Section):
    validation: Share
    test: Share
    seed: int

    @model_validator(mode="after")
    def _leaves_training(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must stay below 1")
        return self


class Contamination(Section):
    words: Annotated[int, Field(ge=4, le=50)]
    share: Annotated[float, Field(gt=0, le=1)]


class Synthetic(Section):
    per_document: Annotated[int, Field(ge=1, le=20)]
    max_documents: Count


class Mix(Section):
    context_share: Share
    oracle_share: Share
    distractors: Annotated[int, Field(ge=0, le=8)]
    near_duplicate: Annotated[float, Field(gt=0, le=1)] | None
    contamination: Contamination
    sensitive: Literal["refuse", "drop", "report"]
    allow: tuple[Pattern, ...]
    region: Region
    synthetic: Synthetic | None
    labels: tuple[Label, ...] = ()
    teacher: Literal["prompt"] | None = None
    min_examples: Count
    seed: int


class LongPromptParams(Section):
    instructions: str | None = None
    shots: Annotated[int, Field(ge=0, le=64)] = 4
    max_tokens: Annotated[int, Field(ge=64)] = 1024


class Generate(Section):
    model: ModelName
    untuned: ModelName | None = None
    task: Task = "answer"
    max_new_tokens: Annotated[int, Field(ge=1, le=2048)]
    passage_tokens: Annotated[int, Field(ge=16)]
    system: str
    reply_schema: str | None
    refusal: str
    prompt: LongPromptParams = LongPromptParams()
    database: str | None = None
    labels: str | tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _has_what_its_task_needs(self) -> Generate:
        if self.task == "sql" and self.database is None:
            raise ValueError("task sql needs `database`, the path of a SQLite file")
        if isinstance(self.labels, tuple) and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise ValueError("labels are at least two distinct texts, or the path of a file with one a line, or null")
        if self.task == "label" and self.reply_schema is not None:
            raise ValueError("a label is chosen, not written: task label takes no reply_schema")
        return self


class Train(Section):
    recipe: ModelName
    steps: Count
    batch: Count
    rank: Count
    learning_rate: Annotated[float, Field(gt=0)]
    max_tokens: Annotated[int, Field(ge=64)]
    seed: int


class Prices(Section):
    cpu_hour: Annotated[float, Field(ge=0)] | None = 0.04
    gpu_hour: Annotated[float, Field(ge=0)] | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"


class Answer(Section):
    arms: tuple[Arm, ...]
    max_questions: Count
    batch: Count
    prices: Prices = Prices()


class Compare(Section):
    traffic: tuple[Count, ...] = (1_000, 100_000, 10_000_000)
    refreshes: Annotated[float, Field(ge=0)] = 4
    judge: ModelName | None = None


class Judge(Section):
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    seed: int
    min_questions: Count
    floors: Mapping[str, float]
    max_regression: Mapping[str, float]
    max_precision_loss: Annotated[float, Field(ge=0, le=1)]
    min_gain: float
    primary: str

    @property
    def margins(self) -> dict[str, float]:
        """Metric of answers, by its short name -> loss that does not matter (`max_regression`)."""
        return {n.partition(".")[2]: loss for n, loss in self.max_regression.items() if n.startswith("answers.")}


class Promote(Section):
    arm: Literal["auto"] | Arm
    approval: Literal["none", "mlflow", "airflow"] = "none"
    valid_days: Count | None = None
    keep: Count = 5


class CorpusParams(Section):
    """All knobs of one corpus: the defaults with its own block over them."""

    schedule: str | None
    source: Source
    fetch: Fetch
    check: CheckParams
    chunk: ChunkParams
    embed: Embed
    index: Index
    retrieve: Retrieve
    split: Split
    mix: Mix
    generate: Generate
    train: Train
    answer: Answer
    compare: Compare = Compare()
    judge: Judge
    promote: Promote


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        # floors and max_regression are whole statements: naming one replaces it, so a floor can be dropped.
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping) and key not in ("floors", "max_regression"):
            out[key] = _merged(out[key], value)
        else:
            out[key] = value
    return out


def _one_line(file: Path, corpus: str, error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner: Any = CorpusParams
        for part in first["loc"][:-1]:
            owner = owner.model_fields[str(part)].annotation
        valid = ", ".join(owner.model_fields) if hasattr(owner, "model_fields") else "?"
        return f"{file.name}: corpus {corpus}: unknown key {key!r}; valid keys there are {valid}"
    return f"{file.name}: corpus {corpus}: {key} is {first.get('input')!r}: {first['msg']}"


def read_raw(file: Path) -> dict[str, Any]:
    """The file's mapping with `defaults` and `corpora`; BadConfig when it is not of that form."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise BadConfig(f"no parameter file at {file}; set ASSAY_PARAMS or run in the checkout") from exc
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise BadConfig(f"{file} is not readable YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(raw, dict) or not isinstance(raw.get("defaults"), dict):
        raise BadConfig(f"{file.name} must be a mapping with `defaults` and `corpora`")
    if unknown := set(raw) - {"defaults", "corpora"}:
        raise BadConfig(f"{file.name}: unknown key {sorted(unknown)[0]!r}; valid keys there are defaults, corpora")
    if not isinstance(raw.setdefault("corpora", {}) or {}, dict):
        raise BadConfig(f"{file.name}: corpora must be a mapping of NAME to a block")
    raw["corpora"] = raw["corpora"] or {}
    return raw


def corpus_block(raw: Mapping[str, Any], corpus: str) -> dict[str, Any]:
    """The corpus's flat block as plain data, defaults filled in; what its workspace's params.yaml holds."""
    block = raw["corpora"].get(corpus)
    if not isinstance(block, dict):
        raise BadConfig(f"corpus {corpus} must be a mapping with at least `source: {{documents: PATH}}`")
    return _merged(raw["defaults"], block)


def load(file: Path) -> dict[str, CorpusParams]:
    """Every corpus of a params file, by name. BadConfig with one line on the first thing wrong."""
    raw = read_raw(file)
    out = {}
    for name in raw["corpora"]:
        if not valid_corpus_name(str(name)):
            raise BadConfig(f"{file.name}: corpus name {name!r} is not valid; a name is {CORPUS_FORM}")
        try:
            out[name] = CorpusParams.model_validate(corpus_block(raw, name))
        except ValidationError as exc:
            raise BadConfig(_one_line(file, name, exc)) from exc
    return out


def load_corpus(file: Path, corpus: str) -> CorpusParams:
    """One corpus's params; NotFound names those that exist."""
    known = load(file)
    if corpus not in known:
        raise NotFound(f"no corpus {corpus!r} in {file.name}; there are: {', '.join(sorted(known)) or 'none'}")
    return known[corpus]


def released(file: Path, corpus: str, sections: Mapping[str, Any]) -> CorpusParams:
    """The params of a release: today's defaults with the sections that its manifest carries over them. BadConfig when
    this version of Assay does not know one of their keys."""
    block = {"source": {"documents": "."}, **sections}
    raw = {"defaults": read_raw(file)["defaults"], "corpora": {corpus: block}}
    try:
        return CorpusParams.model_validate(corpus_block(raw, corpus))
    except ValidationError as exc:
        raise BadConfig(_one_line(file, corpus, exc)) from exc


def resolve(path: str, *, file: Path, home: Path) -> Path:
    """A path of params.yaml as an absolute path: `$ASSAY_HOME/...`, absolute, or relative to the params file."""
    if path.startswith("$ASSAY_HOME/"):
        return home / path.removeprefix("$ASSAY_HOME/")
    return Path(os.path.normpath(file.parent / Path(path).expanduser()))
