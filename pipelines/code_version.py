"""Which code is running: what a signed release says made it. It reads files and asks git, and changes nothing."""

from __future__ import annotations

import subprocess
from importlib.metadata import version

from pipelines import graph
from pipelines.core.digests import digest_bytes
from pipelines.settings import checkout
from pipelines.shipping import running_digest


def _commit() -> str | None:
    """The commit that the checkout stands on; None in a wheel, and where git does not say."""
    root = checkout()
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def code_version() -> dict[str, str | None]:
    """`version` of the distribution; `commit` of the checkout; `sources`, a digest of every file that a wheel of it is
    made of (edits that were not committed show there); `stages`, a digest of the code that makes stages stale; `lock`,
    the digest of requirements.lock, of which a wheel has a copy."""
    lock = checkout() / "requirements.lock"
    return {
        "version": version("assay"),
        "commit": _commit(),
        "sources": running_digest(),
        "stages": digest_bytes(graph.render_code().encode()),
        "lock": digest_bytes(lock.read_bytes()) if lock.is_file() else None,
    }
