"""The blobs of a workspace's git history: read one by one, and struck from the object database where they must go.

A struck blob leaves commits, trees and tags as they are, with their hashes: releases stay bound to their revisions.
What is left is packed anew under a promise (git's partial clone), so that git takes the missing blobs for ones that are
kept elsewhere: log, status, fsck, gc and a clone on this machine work; reading a struck file says that it is gone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from pipelines.errors import BackendError
from pipelines.git import Git

_PROMISE = {"remote.erased.url": "erased", "remote.erased.promisor": "true"}
"""Not `extensions.partialClone`, which git does not need for this and dulwich, by which DVC reads, refuses."""


class History:
    """`root` is the workspace; its lock is the versioner's."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.git = Git(root, lock_file=root / "measured" / "git.lock", patience=120)

    @property
    def _packs(self) -> Path:
        return self._root / ".git" / "objects" / "pack"

    def _names(self) -> list[tuple[str, str]]:
        """(object name, type) of everything that the database holds, reachable or not."""
        form = "--batch-check=%(objectname) %(objecttype)"
        listed = self.git.run("cat-file", "--batch-all-objects", "--unordered", form)[1]
        return sorted({(name, kind) for name, kind in (line.split() for line in listed.splitlines())})

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """(object name, content) of every blob."""
        if not self.git.has_commit():
            return
        wanted = [name for name, kind in self._names() if kind == "blob"]
        command = ["git", f"--git-dir={self._root / '.git'}", "cat-file", "--batch"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self._root) as asked:
            stdin, stdout = asked.stdin, asked.stdout
            if stdin is None or stdout is None:
                raise BackendError("git cat-file has no pipes")
            for name in wanted:
                stdin.write(f"{name}\n".encode())
                stdin.flush()
                size = stdout.readline().split()[-1]
                if size.isdigit():  # it may say that it is missing
                    yield name, stdout.read(int(size) + 1)[:-1]
            stdin.close()

    def newest(self) -> set[str]:
        """The blobs of the newest commit, and of what is about to be committed."""
        if not self.git.has_commit():
            return set()
        tree = self.git.run("ls-tree", "-r", "--object-only", "HEAD")[1].split()
        index = (line.split()[1] for line in self.git.run("ls-files", "--stage")[1].splitlines())
        return {*tree, *index}

    def strike(self, names: Collection[str]) -> None:
        """Take blobs out of the object database for good. Killed anywhere and called again, it ends alike."""
        with self.git.locked():
            kept = [name for name, _ in self._names() if name not in names]
            for key, value in _PROMISE.items():
                self.git.run("config", key, value)
            made = self._pack(kept)
            (self._packs / f"pack-{made}.promisor").touch()
            for file in self._packs.glob("pack-*.idx"):  # without its index a pack is debris, see `sweep`
                if file.stem != f"pack-{made}":
                    file.unlink()
            for folder in (self._root / ".git" / "objects").glob("[0-9a-f][0-9a-f]"):
                for file in folder.iterdir():
                    file.unlink()
            self.sweep()

    def _pack(self, names: Collection[str]) -> str:
        command = ["git", f"--git-dir={self._root / '.git'}", "pack-objects", "-q", str(self._packs / "pack")]
        said = subprocess.run(command, cwd=self._root, input="\n".join(names), text=True, capture_output=True)
        if said.returncode:
            raise BackendError(f"git pack-objects in {self._root}: {said.stderr.strip()[:200]}")
        return said.stdout.strip()

    def sweep(self) -> None:
        """Remove what a killed strike left of packs: they are read by nothing, but their bytes are there."""
        for file in self._packs.glob("*"):
            if not file.with_suffix(".idx").is_file() or file.name.startswith("tmp_"):
                file.unlink()
