"""The models that `assay tune` made, below `$ASSAY_HOME/tuned`: what is there, which is the newest, a new one put in.

| below `$ASSAY_HOME/tuned/CORPUS/KIND` (KIND is embedder or reranker) | is |
|---|---|
| DIGEST/ | a model's folder, named by its digest in fp32; never written again, so an older release keeps its own |
| DIGEST/tuned.json | what it was made of; a folder without it is no model |
| newest.json | the digest of the last one made: replaced whole, after the folder is |

A definition says `tuned: true` and the `base` that is tuned. Which model it means is a param (`embed.tuned`,
`retrieve.rerank.tuned`), filled in with the newest here: so a new model makes stale what rests on it, and the params
that a release carries name the model that it was judged with. What a model was trained on is never what it is
measured on (`held_out`). It trains and opens nothing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from pipelines.core.tuning import unseen
from pipelines.errors import BackendError, BadConfig, NotFound
from pipelines.params import CorpusParams
from pipelines.ports import Ports
from pipelines.workspace import Workspace, write_whole

FORM = "tuned: true and base: NAME, a definition of models/embedders"
FACTS = "tuned.json"
KINDS = {"embedder": "embed.model", "reranker": "retrieve.rerank.model"}
"""What can be tuned -> the param that chooses it."""


def base_of(file: Path) -> Path | None:
    """The definition of the embedder that `file` (of models/embedders or models/rerankers) is tuned from; None where
    it defines no tuned model, or is not there. BadConfig shows the valid form."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # whoever opens the model says what is wrong with its file
    if not isinstance(raw, dict) or "tuned" not in raw:
        return None
    if set(raw) != {"tuned", "base"} or raw["tuned"] is not True or not isinstance(raw["base"], str):
        raise BadConfig(f"models/{file.parent.name}/{file.name}: its keys are {FORM}")
    return file.parent.parent / "embedders" / f"{raw['base']}.yaml"


def place(home: Path, corpus: str, kind: str) -> Path:
    """The folder of a corpus's tuned models."""
    return home / "tuned" / corpus / kind


def newest(home: Path, corpus: str, kind: str) -> str | None:
    """Digest of the model that was made last; None where none was."""
    file = place(home, corpus, kind) / "newest.json"
    return str(json.loads(file.read_text(encoding="utf-8"))["digest"]) if file.is_file() else None


def folder_of(home: Path, corpus: str, kind: str, digest: str | None) -> Path:
    """The folder of a model; NotFound says how to make one where there is none, or not this one."""
    run = f"assay tune {corpus} {kind}"
    if digest is None:
        raise NotFound(
            f"{KINDS[kind]} names a tuned {kind}, and {corpus} has none yet; name another model, bring the stage "
            f"index up to date, and run: {run}"
        )
    folder = place(home, corpus, kind) / digest
    if not (folder / FACTS).is_file():
        raise NotFound(f"{corpus} has no tuned {kind} {digest[:12]} here; run: {run}")
    return folder


def facts_of(home: Path, corpus: str, kind: str, digest: str) -> dict[str, Any]:
    """What a model was made of; NotFound when it is not here."""
    text = (folder_of(home, corpus, kind, digest) / FACTS).read_text(encoding="utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def known(home: Path, corpus: str, kind: str, key: str) -> dict[str, Any] | None:
    """The facts of the model that the training `key` made; None where there is none."""
    for file in sorted(place(home, corpus, kind).glob(f"*/{FACTS}")):
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if facts["key"] == key:
            return facts
    return None


def point(home: Path, corpus: str, kind: str, digest: str) -> bool:
    """Make a model that is there the newest; False when it was."""
    text = json.dumps({"digest": digest}) + "\n"
    return write_whole(place(home, corpus, kind) / "newest.json", text)


def publish(home: Path, corpus: str, kind: str, made: Path, facts: Mapping[str, Any]) -> None:
    """Copy the model folder `made` in as `facts["digest"]`, whole or not at all. The caller holds the lock of this
    kind. A model of that digest that is there stays as it is; only its facts are replaced."""
    target = place(home, corpus, kind) / str(facts["digest"])
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(".tune-*"):
        shutil.rmtree(left, ignore_errors=True)
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    if (target / FACTS).is_file():
        write_whole(target / FACTS, text)
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tune-") as temporary:
        folder = Path(temporary) / "model"
        shutil.copytree(made, folder)
        (folder / FACTS).write_text(text, encoding="utf-8")
        try:
            folder.rename(target)
        except OSError as exc:
            raise BackendError(f"cannot write {target}: {exc.strerror or exc}") from exc


def pinned(params: CorpusParams, corpus: str, *, home: Path, models: Path) -> CorpusParams:
    """The params with the digests of the newest tuned models filled in where a definition below `models` is a tuned
    one and params name none. BadConfig on a digest where the definition is no tuned one."""
    embed, rerank = params.embed, params.retrieve.rerank
    digest = _pin(models / "embedders" / f"{embed.model}.yaml", "embedder", embed.tuned, home=home, corpus=corpus)
    if digest != embed.tuned:
        params = params.model_copy(update={"embed": embed.model_copy(update={"tuned": digest})})
    if rerank is None:
        return params
    digest = _pin(models / "rerankers" / f"{rerank.model}.yaml", "reranker", rerank.tuned, home=home, corpus=corpus)
    if digest == rerank.tuned:
        return params
    retrieve = params.retrieve.model_copy(update={"rerank": rerank.model_copy(update={"tuned": digest})})
    return params.model_copy(update={"retrieve": retrieve})


def _pin(file: Path, kind: str, wanted: str | None, *, home: Path, corpus: str) -> str | None:
    if base_of(file) is not None:
        return wanted or newest(home, corpus, kind)
    if wanted is not None:
        raise BadConfig(
            f"{KINDS[kind].replace('.model', '.tuned')} is set, but {KINDS[kind]} {file.stem} is no tuned one"
        )
    return None


def with_pins(block: Mapping[str, Any], params: CorpusParams) -> dict[str, Any]:
    """A corpus's block of params as plain data, with what `pinned` filled into `params`."""
    out = dict(block)
    if params.embed.tuned is not None:
        out["embed"] = {**block["embed"], "tuned": params.embed.tuned}
    rerank = params.retrieve.rerank
    if rerank is not None and rerank.tuned is not None:
        out["retrieve"] = {**block["retrieve"], "rerank": {**block["retrieve"]["rerank"], "tuned": rerank.tuned}}
    return out


def digests(params: Mapping[str, Any]) -> dict[str, str]:
    """Kind -> digest of the tuned models that params (of a corpus or of a release, as plain data) search by."""
    found = {
        "embedder": params.get("embed", {}).get("tuned"),
        "reranker": (params.get("retrieve", {}).get("rerank") or {}).get("tuned"),
    }
    return {kind: digest for kind, digest in found.items() if digest is not None}


def held_out(
    questions: Sequence[Mapping[str, Any]], *, params: CorpusParams, workspace: Workspace, ports: Ports
) -> list[Mapping[str, Any]]:
    """Where a tuned model searches, in these params or in the champion: the questions of the test split that none of
    them was trained or chosen by. Else all. BadConfig when `split` is no longer what a model of these params was
    tuned by."""
    corpus, shares = workspace.corpus, params.split.model_dump()
    ours, theirs = digests(params.model_dump()), digests(workspace.champion().get("params", {}))
    if not ours and not theirs:
        return list(questions)
    home, seen = ports.settings.home, set[str]()
    for kind, digest in ours.items():
        facts = facts_of(home, corpus, kind, digest)
        if facts["split"] != shares:
            raise BadConfig(f"`split` is not what {kind} {digest[:12]} was tuned by; run: assay tune {corpus} {kind}")
        seen.update(facts["seen"])
    for kind, digest in theirs.items():
        with suppress(NotFound):  # then it cannot search either, and is not scored
            seen.update(facts_of(home, corpus, kind, digest)["seen"])
    return unseen(questions, seen, **shares)
