"""A corpus's workspace as a git + DVC repository behind `ports.Versioner`: DVC in-process, git as the command.

Every step can be killed and taken again: the tag `rN` is written last, after commit and push. Several processes may
use one workspace: DVC's own locks and ours are waited for. It does not know what the stages do.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipelines import dvc_config, stage_process
from pipelines.core.nouns import Corpus
from pipelines.corpus_files import (
    document_count,
    folder_digest,
    fresh,
    mend,
    same_tree,
    swap_in,
    tree_digest,
)
from pipelines.dvc_files import written_whole
from pipelines.errors import AssayError, BackendError, IntegrityError, NotFound
from pipelines.git import Git
from pipelines.locks import exclusive
from pipelines.workspace import write_whole

T = TypeVar("T")
_REVISION = re.compile(r"r([1-9][0-9]*)")
_IGNORED = "/staging\n/measured\n*.log\n*.tmp\n"
_RECORDED = ("params.yaml", "dvc.yaml", "code.yaml", ".gitignore", ".dvc/config", ".dvc/.gitignore", "corpus.dvc")
_SETTLE = 5
"""Most runs of one stage in a row because its inputs changed while it ran."""


def _push(repo: Any, **how: Any) -> None:
    """`dvc push`, from what is there: DVC keeps a list of what to push, and one that a full disk cut short would be
    taken for whole, so that a folder arrives without its files."""
    repo.drop_data_index()
    repo.push(**how)


class DvcVersioner:
    """`root` is the workspace, `remote` a folder or `s3://bucket/prefix` for its data.

    Waits up to `patience` seconds for other processes. Credentials and endpoint of S3 come from the usual AWS_*
    variables; only the endpoint is written down, in a file that git ignores.
    """

    def __init__(self, root: Path, *, corpus: str, remote: Path | str, patience: float = 120.0) -> None:
        self._root = root
        self._corpus = corpus
        self._remote = str(remote)
        self._patience = patience
        self._git = Git(root, lock_file=root / "measured" / "git.lock", patience=patience)

    def snapshot(self, message: str, *, content: Path | None = None) -> Corpus:
        """Put `content` in the place of `corpus/` when it differs; track, commit, push, tag. See `ports.Versioner`.

        BackendError when git or DVC fail, or when a stage that reads the corpus runs for longer than the patience.
        """
        self._ready()
        busy = f"the snapshot of {self._corpus}"
        with exclusive(self._root / "measured" / "snapshot.lock", patience=self._patience, what=busy):
            mend(self._root / "corpus", aside=self._root / "staging" / ".corpus.old")
            if content is not None and not same_tree(content, self._root / "corpus"):
                self._dvc(lambda repo: self._put(repo, content))
            newest, tree = self._newest(), tree_digest(self._root / "corpus")
            if newest is not None and newest["tree"] == tree and self._tracks(newest["dvc"]):
                return self._as_corpus(newest)
            tracked = self._dvc(self._track)
            if newest is not None and newest["dvc"] == tracked:
                with self._git.locked():
                    # Nothing to do, unless a killed run had committed another content that is gone again.
                    if self._git.changed("corpus.dvc"):
                        self._git.commit(f"Return to {newest['revision']}", "corpus.dvc")
                return self._as_corpus(newest)
            with self._git.locked():
                self._git.commit(message, *_RECORDED)
            self._dvc(lambda repo: _push(repo, targets=["corpus"]))
            return self._tag(message, dvc=tracked, tree=tree)

    def reproduce(self, stage: str, *, force: bool = False) -> bool:
        """`dvc repro --single-item STAGE`; True when it ran. The stage's own error is raised as what it was.

        A stage whose params or dependencies changed while it ran is run again: DVC would book the new inputs on the
        old outputs.
        """
        self._ready()
        with self._environment():
            ran = False
            for _ in range(_SETTLE):
                again, moved = self._dvc(partial(self._reproduce, stage=stage, force=force))
                ran = ran or again
                if not moved:
                    return ran
                force = True
        raise IntegrityError(f"stage {stage} of {self._corpus}: its inputs changed during each of {_SETTLE} runs")

    def current(self) -> Corpus | None:
        """The newest revision, from its tag alone; None before the first snapshot."""
        newest = self._newest()
        return None if newest is None else self._as_corpus(newest)

    def record(self, message: str, *, tag: str | None = None) -> None:
        """Commit everything that git tracks here, after pushing what dvc.lock names; an existing tag stays."""
        self._ready()
        if self._git.changed("dvc.lock"):
            self._dvc(_push)
        with self._git.locked():
            self._git.commit(message, ".")
            if tag and not self._git.run("tag", "--list", tag)[1].strip():
                self._git.run("tag", "--annotate", "--message", message, tag)

    def _ready(self) -> None:
        """Make the repository on first use. Each step may be repeated; the first commit is the marker.

        A remote that moved since is written down again; the next commit takes it along.
        """
        if self._git.has_commit():
            write_whole(self._root / ".dvc" / "config", dvc_config.committed(self._root, self._remote))
            return
        with self._git.locked():
            if self._git.has_commit():
                return
            git = self._root / ".git"
            if not (git / "packed-refs").exists() and not any(path.is_file() for path in (git / "refs").rglob("*")):
                shutil.rmtree(git, ignore_errors=True)  # what an interrupted init left; git does not mend its HEAD
            self._git.run("init", "--quiet", "--initial-branch=main")
            self._git.run("config", "user.name", "Assay")
            self._git.run("config", "user.email", "assay@localhost")
            write_whole(self._root / ".dvc" / "config", dvc_config.committed(self._root, self._remote))
            write_whole(self._root / ".dvc" / ".gitignore", "/config.local\n/tmp\n/cache\n")
            write_whole(self._root / ".gitignore", _IGNORED)
            self._git.commit(f"Begin the workspace of {self._corpus}", ".gitignore", ".dvc")

    def _newest(self) -> dict[str, Any] | None:
        """The record in the newest revision tag. A tag of that form that we did not write is passed over."""
        if not self._git.has_commit():  # none yet, or the making of the repository was interrupted
            return None
        form = "%(refname:short)%09%(*objectname)%09%(contents:body)"
        found: dict[int, dict[str, Any]] = {}
        for line in self._git.run("for-each-ref", f"--format={form}", "refs/tags/r*")[1].splitlines():
            name, _, rest = line.partition("\t")
            commit, _, body = rest.partition("\t")
            if (match := _REVISION.fullmatch(name)) and commit:
                with suppress(ValueError):
                    record = json.loads(body)
                    if isinstance(record, dict) and record.keys() >= {"digest", "documents", "dvc", "tree"}:
                        found[int(match[1])] = {**record, "revision": name, "commit": commit}
        return found[max(found)] if found else None

    def _as_corpus(self, record: dict[str, Any]) -> Corpus:
        return Corpus(self._corpus, record["revision"], record["digest"], record["commit"], record["documents"])

    def _tracks(self, md5: str) -> bool:
        """True when corpus.dvc names this content and git has it so; read without starting DVC."""
        file = self._root / "corpus.dvc"
        return file.is_file() and f"md5: {md5}\n" in file.read_text() and not self._git.changed("corpus.dvc")

    def _tag(self, message: str, *, dvc: str, tree: str) -> Corpus:
        corpus = self._root / "corpus"
        record = {"digest": folder_digest(corpus), "documents": document_count(corpus), "dvc": dvc, "tree": tree}
        with self._git.locked():
            names = self._git.run("tag", "--list", "r*")[1].split()
            numbers = [int(match[1]) for name in names if (match := _REVISION.fullmatch(name))]
            name = f"r{max(numbers, default=0) + 1}"
            body = json.dumps(record, sort_keys=True)
            self._git.run("tag", "--annotate", "--message", f"{message}\n\n{body}", name)
            commit = self._git.run("rev-parse", f"{name}^{{commit}}")[1].strip()
        return self._as_corpus({**record, "revision": name, "commit": commit})

    def _put(self, repo: Any, content: Path) -> None:
        """Swap `corpus/` while no stage reads it: under DVC's lock of that path."""
        from dvc.rwlock import rwlock

        target, staging = self._root / "corpus", self._root / "staging"
        with repo.lock, rwlock(repo.tmp_dir, repo.fs, "assay snapshot", [], [str(target)], False):
            building = fresh(staging / ".corpus.building")
            # Copied, not linked: what is versioned must not change when something writes into staging.
            shutil.copytree(content, building, copy_function=shutil.copyfile, dirs_exist_ok=True)
            swap_in(building, target, aside=staging / ".corpus.old")

    def _track(self, repo: Any) -> str:
        # Files are copied into the cache; the folder itself is left as it is, never made links of the cache.
        return str(repo.add("corpus", relink=False)[0].outs[0].hash_info.value)

    def _reproduce(self, repo: Any, *, stage: str, force: bool) -> tuple[bool, bool]:
        """(whether it ran, whether its inputs are no longer those that it began with)."""
        from dvc.exceptions import ReproductionError
        from dvc.stage.exceptions import StageCmdFailedError

        before = _inputs(repo, stage)
        stage_process.forget(self._root, stage)
        try:
            # Not from DVC's run cache: an entry that a kill left empty fails for ever, and stages keep what they made.
            ran = bool(repo.reproduce(stage, single_item=True, force=force, run_cache=False))
        except ReproductionError as exc:
            failure = exc.__cause__
            if isinstance(failure, StageCmdFailedError):
                said = stage_process.handed_over(self._root, stage)
                how = str(failure).rsplit(", ", 1)[-1]
                raise said or BackendError(f"stage {stage} of {self._corpus} {how}; what it printed says why") from exc
            raise (failure or exc) from None
        return ran, ran and _inputs(repo, stage) != before

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """What the stage's process needs: this interpreter's commands first, a plain shell, the same home."""
        bin_folder = str(Path(sys.executable).parent)
        wanted = {
            "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
            "SHELL": "/bin/sh",
            "ASSAY_HOME": os.environ.get("ASSAY_HOME") or str(self._root.parents[1]),
            stage_process.OUTER: str(os.getpid()),
        }
        before = {key: os.environ.get(key) for key in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    def _dvc(self, act: Callable[[Any], T]) -> T:
        """Open the repository and `act`; waits for other processes' locks, and gives DVC's errors our names."""
        import tenacity
        from dvc.dependency.base import DependencyDoesNotExistError
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.rwlock import RWLockFileCorruptedError
        from dvc.stage.exceptions import StageNotFound

        def attempt() -> T:
            with self._repo() as repo:
                try:
                    return act(repo)
                except RWLockFileCorruptedError:
                    # Left by a process that was killed while writing it; the locks it named died with it.
                    (Path(repo.tmp_dir) / "rwlock").unlink(missing_ok=True)
                    raise

        patient = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((LockError, RWLockFileCorruptedError)),
            stop=tenacity.stop_after_delay(self._patience),
            wait=tenacity.wait_random(0.1, 0.6),
            reraise=True,
        )
        try:
            return patient(attempt)
        except AssayError:
            raise
        except LockError as exc:
            held = " ".join(str(exc).split())[:200]
            raise BackendError(f"the workspace of {self._corpus} stayed busy for {self._patience:g} s: {held}") from exc
        except DependencyDoesNotExistError as exc:
            lacks = str(exc).removeprefix("dependency ").removesuffix(" does not exist").strip("'")
            raise NotFound(f"{self._corpus} has no {lacks} yet; run: assay run {self._corpus}") from exc
        except StageNotFound as exc:
            raise NotFound(f"{self._corpus}: {' '.join(str(exc).split())}") from exc
        except (DvcException, OSError) as exc:
            raise BackendError(f"DVC in the workspace of {self._corpus}: {' '.join(str(exc).split())}") from exc

    @contextmanager
    def _repo(self) -> Iterator[Any]:
        import tenacity
        from dvc.lock import Lock, LockError
        from dvc.repo import Repo

        # Its hints ("to track the changes with git, run ...") are for people who work in the folder by hand.
        logging.getLogger("dvc").setLevel(logging.ERROR)
        patience = self._patience

        class Patient(Lock):
            """DVC gives up after three seconds, also when a stage that ran for an hour comes back to book its end."""

            def lock(self) -> None:
                tenacity.Retrying(
                    retry=tenacity.retry_if_exception_type(LockError),
                    stop=tenacity.stop_after_delay(patience),
                    reraise=True,
                )(super().lock)

        written_whole()
        write_whole(self._root / ".dvc" / "config.local", dvc_config.local(self._root, self._remote))
        # DVC reads stage names and targets relative to the current folder.
        with chdir(self._root):
            repo = Repo(str(self._root))
            repo.lock = Patient(str(Path(repo.tmp_dir) / "lock"))
            try:
                yield repo
            finally:
                repo.close()


def _inputs(repo: Any, stage: str) -> list[Any]:
    """What a stage depends on as it is now: the values of its params, the hashes of its files; None where missing."""
    out = []
    for dependency in repo.stage.collect(stage)[0].deps:
        try:
            read = getattr(dependency, "read_params", None)
            out.append(read() if read else dependency.get_hash().value)
        except (OSError, AttributeError):
            out.append(None)
    return out
