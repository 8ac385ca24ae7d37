"""The two configuration files of a workspace's DVC: the one that is committed, and the one of this machine.

Neither holds a credential: DVC takes those of S3 from the usual AWS_* variables.
"""

from __future__ import annotations

import os
from pathlib import Path


def committed(root: Path, remote: str) -> str:
    """What `dvc init` and `dvc remote add --default` write, and that data is verified when it is fetched.

    A folder is named relative to .dvc/, since ASSAY_HOME may move.
    """
    url = remote if "://" in remote else os.path.relpath(remote, root / ".dvc")
    config = "[core]\n    analytics = false\n    check_update = false\n    remote = assay\n"
    return config + f"['remote \"assay\"']\n    url = {url}\n    verify = true\n"


def local(root: Path, remote: str) -> str:
    """DVC's index of file hashes lives with the workspace instead of in a folder of the machine; and S3's endpoint."""
    config = f"[core]\n    site_cache_dir = {root / '.dvc' / 'tmp' / 'site'}\n"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and remote.startswith("s3://"):
        config += f"['remote \"assay\"']\n    endpointurl = {endpoint}\n"
    return config
