"""Nodes of the graph as `assay stage` runs them, DVC included, for the zygote of `kill_kit`: on a small corpus that is
chunked, embedded on Spark, trained on and asked, with a generator of a few thousand weights.

`assay exec STAGE`, which DVC starts as a new interpreter, is forked here, with the imports done; all else is as ever.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from pipelines.schemas import write_jsonl
from pipelines.settings import Settings
from tests import index_kit, life_kit
from tests import release_kit as kit

Json = dict[str, Any]
GENERATOR = "ASSAY_TEST_GENERATOR"
"""Environment: the definition file of the generator, in the place of models/generators."""
IMPORTED: set[str] = set()
"""What the forked stages of this process imported."""

QUESTION = "Within how many days is a tent of kind 1 returned?"
TEXTS = {name.removesuffix(".md"): text for name, text in list(index_kit.TEXTS.items())[:3]}
NEWER = {"tent": TEXTS["tent"].replace("returned within", "taken back within"), "lamp": index_kit.TEXTS["lamp.md"]}
SECTIONS: dict[str, Any] = {
    "source": {"documents": "documents", "questions": "questions", "examples": "examples"},
    "check": {"suspicious": "report"},
    "chunk": {"min_tokens": 24, "max_tokens": 48, "overlap": 4},
    "retrieve": {"mode": "dense", "k": 1},
    "generate": {"max_new_tokens": 4},
    "train": {"steps": 4, "batch": 2, "rank": 2},
    "answer": {"arms": ["base", "rag", "tuned", "both"], "max_questions": 4, "batch": 4},
    "promote": {"arm": "both"},
    "judge": {
        "primary": "answers.token_recall", "floors": {}, "max_regression": {}, "min_gain": -1.0, "min_questions": 1,
    },
}  # fmt: skip


def land(home: Path, texts: Mapping[str, str]) -> None:
    """Put documents into the landing folder, beside those that are there, each with a question that tests it; and an
    example more than there are."""
    life_kit.land(home, texts)
    names = sorted(path.stem for path in (home / "documents").glob("*.md"))
    asked = [
        {
            "id": name, "question": f"Within how many days is a {name} of kind 1 returned?", "answers": ["11 days"],
            "split": "test", "evidence": [{"document": f"{name}.md", "quote": "within 11 days of delivery"}],
        }
        for name in names
    ]  # fmt: skip
    shown = [
        {"id": f"e{n:02}", "prompt": f"Name {n}.", "completion": f"It is {n}.", "evidence": [], "split": "train"}
        for n in range(13 + len(names))
    ]
    write_jsonl(home / "questions" / "gold.jsonl", asked)
    write_jsonl(home / "examples" / "some.jsonl", shown)


class Stages:
    """A process that forks the stages which DVC starts. It is forked itself before anything runs threads, which no fork
    has; it ends with its parent."""

    def __init__(self) -> None:
        orders, self._orders = os.pipe()
        self._said, said = os.pipe()
        if os.fork() == 0:
            os.close(self._orders)
            os.close(self._said)
            with os.fdopen(orders) as lines:
                for line in lines:
                    os.write(said, (json.dumps(_forked(**json.loads(line))) + "\n").encode())
            os._exit(0)
        os.close(orders)
        os.close(said)

    def run(self, _: Any, cmd: str, *, cwd: str, env: Mapping[str, str], **__: Any) -> None:
        """In the place of DVC's `_run`."""
        from dvc.stage.exceptions import StageCmdFailedError

        order = {"stage": cmd.removeprefix("assay exec "), "cwd": cwd, "env": dict(env)}
        os.write(self._orders, (json.dumps(order) + "\n").encode())
        with os.fdopen(os.dup(self._said)) as lines:
            code, imported = json.loads(lines.readline())
        IMPORTED.update(imported)
        if code:
            raise StageCmdFailedError(cmd, code)


def _forked(stage: str, cwd: str, env: Mapping[str, str]) -> tuple[int, list[str]]:
    """The exit code of `assay exec STAGE` in a fork of this process, and the modules that it ended with."""
    from pipelines.runner import execute
    from pipelines.stage_process import inner

    into, out = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.chdir(cwd)
            os.environ.update(env)
            with inner(Path.cwd(), stage):
                execute(Settings.from_env(), Path.cwd().name, stage)
            os.write(out, json.dumps(sorted(sys.modules)).encode())
            code = 0
        except SystemExit as exc:
            code = int(exc.code or 0)
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(out)
    with os.fdopen(into) as said:
        imported = json.loads(said.read() or "[]")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), imported


def _prepared() -> None:
    from pipelines.backends.transformers import load_generator
    from pipelines.wiring import Wiring

    def generator(self: Wiring, adapter: Path | None = None) -> Any:
        file, batch = Path(os.environ[GENERATOR]), self.params.answer.batch
        return load_generator(file, cache=self.settings.cache, adapter=adapter, batch=batch)

    Wiring.generator = Wiring.base_generator = generator  # type: ignore[method-assign]


def node(name: str) -> list[Any]:
    """Bring one node of the graph up to date: whether it changed, and its summary."""
    _prepared()
    stages = Stages()
    import dvc.stage.run

    from pipelines.runner import run_node

    dvc.stage.run._run = stages.run
    outcome = run_node(Settings.from_env(), kit.CORPUS, name)
    return [outcome.changed, outcome.summary]


def serve() -> Json:
    """What a service that starts now answers by the log. It has verified everything that the release binds, the rows in
    Milvus included."""
    from pipelines.client import Release

    _prepared()
    with Release(kit.CORPUS, look_every=None) as release:
        return {"generation": release.generation, "found": release.passages([QUESTION], k=5)}


def whole() -> Json:
    """Everything that two homes with one history must agree on, whatever was killed on the way: what `life_kit` knows
    of a release's life, and what the graph's stages make."""
    from pipelines.builds import build_facts
    from pipelines.corpus_files import tree_digest

    wiring = life_kit._wiring()
    root, home, objects = wiring.workspace.root, wiring.settings.home, wiring.objects
    locked = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    keys = {key.split("/")[1]: [] for key in objects.list("builds")}
    for build, found in keys.items():
        found += sorted(key for key, _, _ in wiring.store.rows(build))
        assert len(found) == len(set(found)) == build_facts(objects, f"builds/{build}")["rows"]
    parts = [key for key in objects.list("embeddings") if key.endswith(".parquet")]
    texts = [t for key in parts for t in pq.read_table(io.BytesIO(objects.get(key)))["text_digest"].to_pylist()]
    client = wiring.registry._client
    adapters = client.search_model_versions(f"name = '{kit.CORPUS}-adapter'")
    return life_kit.state() | {
        "rows": keys,
        "embedded": sorted(texts),
        "receipts": {file.name: json.loads(file.read_text()) for file in sorted((root / "receipts").glob("*"))},
        "training": tree_digest(root / "training"),
        # What replies took is in scores/: it differs.
        "booked": {
            stage: [out for out in entry["outs"] if not out["path"].startswith("scores")]
            for stage, entry in locked.items()
        },
        "adapters": sorted(sorted(version.tags.items()) for version in adapters),
        "objects": [key for kind in ("builds", "chunks", "adapters", "training-runs") for key in objects.list(kind)],
        "files": _files(root, home / "objects" / "embeddings"),
        # A forked stage leaves the emptied folder of its JVM, which a process that exits removes: local-RANDOM.
        "scratch": sorted(path.name.split("-")[0] for f in ("", "spark") for path in (home / "cache" / f).glob("*")),
    }


def _files(root: Path, *folders: Path) -> list[str]:
    """Names of files of the workspace, git's and DVC's own aside, and of how many in the folders are no Parquet."""
    names = [str(path.relative_to(root)) for path in root.rglob("*")]
    names = [name for name in names if not name.startswith((".git/", ".dvc/"))]
    return sorted([*names, *(path.name for f in folders for path in f.rglob("*.*") if path.suffix != ".parquet")])


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (node, serve, whole)}
