"""The release manifest: what one generation binds, as plain JSON. It is built here and signed elsewhere; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pipelines.core.prompts import PROMPTED

Json = Mapping[str, Any]
SERVING = ("chunk", "embed", "index", "retrieve", "generate", "answer")
"""Sections of params that a reader needs to serve a release as it was judged."""
SCHEMA = 1


def reranker_digest(found: Json) -> str | None:
    """Digest of the cross-encoder in a manifest, or in a receipt of scores; None where none was used."""
    return (found.get("reranker") or {}).get("digest")


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def expiry(created: str, valid_days: int | None) -> str | None:
    """When a release of that time expires, UTC in ISO form; None: never."""
    return (_when(created) + timedelta(days=valid_days)).isoformat() if valid_days else None


def expired(manifest: Json, now: datetime) -> bool:
    """True from the moment that the manifest names on; manifests from before that field never expire."""
    expires = manifest.get("expires")
    return expires is not None and now >= _when(expires)


def renewable(manifest: Json, now: datetime) -> bool:
    """True once less than half of its validity is left, so that a renewal need not wait until it is refused."""
    expires = manifest.get("expires")
    return expires is not None and now - _when(manifest["created"]) > (_when(expires) - _when(manifest["created"])) / 2


def build(
    *,
    corpus: str,
    created: str,
    expires: str | None,
    approval: Json | None,
    generation: int,
    judged: Json,
    revision: Json,
    params: Json,
    base: Json,
    evaluation: Json,
    code: Json,
    window: int,
) -> dict[str, Any]:
    """The manifest of a judged candidate. `judged` is the judge's receipt, `params` the corpus's block, `created`
    and `expires` (of `expiry`) UTC in ISO form, `approval` who approved it, when and how (None:
    nobody was asked), `window` the embedder's in tokens. `prompt.longer` is all that the arm `prompt` asks with
    (`LongPrompt.to_json`); null where another arm serves. `prompt.labels`, if any: what a reply is chosen from."""
    index = judged["index"]
    labels = {"labels": judged["labels"]} if judged.get("labels") else {}
    return {
        "schema": SCHEMA,
        "corpus": corpus,
        "generation": generation,
        "previous": generation - 1,
        "created": created,
        "expires": expires,
        "approval": approval and dict(approval),
        "candidate": judged["candidate"],
        "revision": dict(revision),
        "chunk": params["chunk"],
        "embedder": {
            "name": index["embedder"],
            "digest": index["embedder_digest"],
            "dim": index["dim"],
            "window": window,
        },
        "index": {
            "collection": index["collection"],
            "rows": index["rows"],
            "digest": index["digest"],
            "key": index["key"],
            "parts": index["parts"],
            "dim": index["dim"],
            "index_type": index.get("index_type", "FLAT"),
            "params": params["index"],
        },
        "reranker": judged["reranker"],
        "adapter": judged["adapter"],
        "base": dict(base),
        "prompt": {"digest": judged["prompt_digest"], "longer": judged.get("long_prompt"), **labels},
        "params": {name: params[name] for name in SERVING},
        "arm": judged["arm"],
        "evaluation": {**evaluation, "primary": judged["primary"]},
        "verdict": {"passed": judged["passed"], "against": judged["against"], "checks": judged["checks"]},
        "code": dict(code),
    }


def restored(target: Json, log: Sequence[Json], *, generation: int, created: str) -> dict[str, Any]:
    """The manifest of a rollback: what `target` served, as a new generation. `log` holds the manifests that are
    newer than `target`; the candidates among them that it does not serve are withdrawn: of a renewal, none. It is
    valid for as long as `target` was."""
    withdrawn = sorted({m["candidate"] for m in log if m["candidate"] != target["candidate"]})
    expires = target.get("expires")
    if expires is not None:
        expires = (_when(created) + (_when(expires) - _when(target["created"]))).isoformat()
    return {
        **{key: value for key, value in target.items() if key not in ("restores", "withdrawn")},
        "generation": generation,
        "previous": generation - 1,
        "created": created,
        "expires": expires,
        # A rollback to a rollback names the build's own generation.
        "restores": target.get("restores") or target["generation"],
        "withdrawn": withdrawn,
    }


def released_already(
    manifest: Json, *, index: Json, train: Json, retrieval: Json, params: Json, shown: str | None = None
) -> bool:
    """True when these receipts and params are those that `manifest` was made of: same build, adapter and reranker, same
    serving params, same primary metric, and an arm that is asked for is the one that serves. `shown` is the digest of
    what few-shot examples are drawn from now: it counts where the release serves them."""
    return (
        manifest["index"]["collection"] == index.get("collection")
        and (manifest["adapter"] or {}).get("digest") == train.get("digest")
        and reranker_digest(manifest) == reranker_digest(retrieval)
        and all(manifest["params"][name] == params[name] for name in ("retrieve", "generate", "answer"))
        and manifest["evaluation"]["primary"] == params["judge"]["primary"]
        and params["promote"]["arm"] in ("auto", manifest["arm"])
        and (manifest["arm"] != PROMPTED or manifest["prompt"]["longer"]["source"] == shown)
    )


def held_back(candidate: str, log: Iterable[Json]) -> int | None:
    """The generation of the rollback that withdrew `candidate`, if none has published it again since.

    `log` holds manifests, newest first, with `candidate`, `generation` and, of a rollback, `withdrawn`.
    """
    for manifest in log:
        if manifest.get("candidate") == candidate:
            return None
        if candidate in manifest.get("withdrawn", ()):
            return int(manifest["generation"])
    return None
