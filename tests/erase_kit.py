"""What the erasure tests share: a corpus that lands as files and passes through the real stages to the index, scores
written by hand, a release; and a search of the disk that knows nothing of Assay."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.actions import promote
from pipelines.runner import run_node, sync_champion
from pipelines.settings import Settings
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.stage_kit import stages_here

TINY = kit.CORPUS
MARK = "Quentin Abernathy of Larkspur Lane"
GONE = "letters/complaint.md"
TEXTS = {
    "refunds.md": "# Refunds\n\nRefunds are paid within 30 days of delivery. Opened goods carry a restocking fee.\n",
    "shipping.md": "# Shipping\n\nStandard shipping costs 4.90 euros and takes 3 to 5 business days in this country.\n",
    "warranty.md": "# Warranty\n\nTents carry a warranty of five years; boots carry a warranty of one year only.\n",
    GONE: f"# A complaint\n\n{MARK} asks for his refund within 12 days. "
    f"His tent arrived torn, and the refunds desk promised to pay {MARK} on the second of May.\n",
}
ASKED = "Who was promised a refund by the desk, and within how many days?"


def landed(folder: Path, **sections: Any) -> Settings:
    """A home whose corpus has these documents, and gold questions and examples about them."""
    settings = kit.home(folder, **sections)
    for name, text in TEXTS.items():
        file = folder / "documents" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return settings


def run(settings: Settings) -> tuple[bool, str]:
    """From the landing to a release: the real stages up to the index, then scores by hand, the judge and promote."""
    with stages_here():
        for node in ("fetch", "check", "snapshot", "chunk", "embed", "index"):
            run_node(settings, TINY, node)
    wiring = Wiring.of(settings, TINY)
    workspace = wiring.workspace
    receipts = {stage: workspace.receipt(stage) for stage in ("chunk", "embed", "index")}
    sync_champion(wiring)
    kit.scored(wiring, receipts["embed"])
    for stage, facts in receipts.items():
        workspace.write_receipt(stage, facts, {}, "")
    (workspace.root / "scores" / "quoted.jsonl").write_text(_quoted(workspace.versioned))
    kit.judged(wiring)
    try:
        return promote.run(wiring.params, workspace, ports=wiring)
    finally:
        wiring.store.close()


def _quoted(corpus: Path) -> str:
    """What the scores of a real run repeat of the documents, as git keeps it."""
    rows = pq.read_table(corpus / "documents.parquet").to_pylist()
    return "".join(json.dumps({"id": row["id"], "answer": row["text"]}) + "\n" for row in rows)


def decoded(file: Path) -> Iterator[bytes]:
    """The bytes of a file as they lie there, and unpacked where they are packed."""
    data = file.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        yield json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str).encode()
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if data[:1] == b"\x78":  # zlib: git's loose objects
        with suppress(zlib.error):
            yield zlib.decompress(data)


def grep(home: Path, text: str = MARK) -> set[str]:
    """Paths below `home` that hold the text, what git has in its packs included."""
    needle, found = text.encode(), set()
    for file in home.rglob("*"):
        if file.is_file() and not file.is_symlink() and any(needle in data for data in decoded(file)):
            found.add(file.relative_to(home).as_posix())
    for git in home.rglob(".git"):
        command = ["git", f"--git-dir={git}", "cat-file", "--batch", "--batch-all-objects"]
        if needle in subprocess.run(command, capture_output=True, check=True).stdout:
            found.add(git.relative_to(home).as_posix())
    return found


def erase_until(steps: int) -> None:
    """`assay erase` in this process, which dies by SIGKILL before the step after so many that touch the world."""
    import obstore

    from pipelines.actions import erase, erase_texts
    from pipelines.backends.milvus import MilvusStore
    from pipelines.git_history import History

    left = steps

    def counted(owner: Any, name: str, when: Any = lambda *_: True) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= when(*args)
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(owner, name, step)

    def told(path: Path, *_: Any) -> bool:  # of git's many loose objects none is a step of its own
        return path.suffix in (".idx", ".promisor") or ".git" not in path.parts

    for owner, name in (
        (obstore, "delete"), (obstore, "put"), (MilvusStore, "drop"), (History, "_pack"), (History, "sweep"),
        (erase_texts, "remember"),
    ):  # fmt: skip
        counted(owner, name)
    for name in ("touch", "unlink"):
        counted(Path, name, told)
    for line in erase.erase(Settings.from_env(), TINY, [GONE]):
        print(line, flush=True)
