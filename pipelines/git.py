"""Git as a command on one repository, safe to kill: one lock around every change, and stale lock files are cleared.

It runs only what it is given; what a commit means is the caller's business.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import BackendError
from pipelines.locks import exclusive

# The user's own hooks, signing, ignore and line-end rules are not for these repositories; no background maintenance,
# because the lock must cover it.
_OURS = {
    "core.hooksPath": os.devnull,
    "core.excludesFile": os.devnull,
    "core.autocrlf": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "gc.autoDetach": "false",
    "maintenance.autoDetach": "false",
}
_GRACE = 2.0
"""Seconds that a lock file of git must be old before it counts as left behind by a killed process."""


class Git:
    """One work tree. `lock_file` (outside what git tracks) serialises our processes for at most `patience` seconds."""

    def __init__(self, root: Path, *, lock_file: Path, patience: float) -> None:
        self._root = root
        self._lock_file = lock_file
        self._patience = patience
        self._held: int | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among our processes. A git child inherits the lock, so an orphan of a killed process still holds it;
        therefore a lock file of git's own that is found here has no owner."""
        with exclusive(self._lock_file, patience=self._patience, what=f"git in {self._root}") as descriptor:
            self._held = descriptor
            try:
                self._clear_stale()
                yield
            finally:
                self._held = None

    def run(self, *arguments: str, ok: Sequence[int] = (0,)) -> tuple[int, str]:
        """(exit code, stdout). BackendError with git's own first line when the code is not in `ok`."""
        command = ["git", f"--git-dir={self._root / '.git'}", f"--work-tree={self._root}"]
        for key, value in _OURS.items():
            command += ["-c", f"{key}={value}"]
        # GIT_DIR and its like would lead away from this repository, e.g. when called within a hook of another one.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment.update(LC_ALL="C", GIT_TERMINAL_PROMPT="0")
        try:
            done = subprocess.run(
                [*command, *arguments],
                cwd=self._root,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                pass_fds=() if self._held is None else (self._held,),
            )
        except FileNotFoundError as exc:
            raise BackendError("git is not installed or not on PATH; install the package git") from exc
        if done.returncode not in ok:
            said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise BackendError(f"git {arguments[0]} in {self._root}: {said}")
        return done.returncode, done.stdout

    def has_commit(self) -> bool:
        """True once the repository holds a commit."""
        if not (self._root / ".git").is_dir():
            return False
        return self.run("rev-parse", "--quiet", "--verify", "HEAD", ok=(0, 1, 128))[0] == 0

    def commit(self, message: str, *paths: str) -> bool:
        """Commit what changed below `paths` (those that exist or are tracked); False when nothing did. Call locked."""
        tracked = set(self.run("ls-files", "-z", "--", *paths)[1].split("\0"))
        known = [p for p in paths if (self._root / p).exists() or any(t == p or t.startswith(f"{p}/") for t in tracked)]
        if not known:
            return False
        self.run("add", "--all", "--", *known)
        if self.run("diff", "--cached", "--quiet", ok=(0, 1))[0] == 0 and self.has_commit():
            return False
        self.run("commit", "--quiet", "--no-verify", "--message", message)
        return True

    def changed(self, *paths: str) -> bool:
        """True when a path differs from the last commit, or is not in it."""
        return bool(self.run("status", "--porcelain", "--", *paths)[1].strip())

    def _clear_stale(self) -> None:
        folder = self._root / ".git"
        found = [*folder.glob("*.lock"), *(folder / "refs").rglob("*.lock")]
        for file in found:
            while file.exists() and time.time() - file.stat().st_mtime < _GRACE:
                time.sleep(0.1)
            file.unlink(missing_ok=True)
