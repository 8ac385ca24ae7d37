"""The files that DVC writes in place (`dvc.lock`, `corpus.dvc`), written beside it and renamed instead.

A process that is killed while DVC writes one, or that meets a full disk, would leave a beginning of it, which DVC
refuses for ever, or takes for another state. DVC has no switch for it; its own function is replaced.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pipelines.workspace import write_whole


def _dump(path: Any, data: Any, dumper: Any, fs: Any = None, **how: Any) -> None:
    """DVC's `_dump_data`, whole or not at all."""
    stream = io.StringIO()
    dumper(data, stream, **how)
    write_whole(Path(path), stream.getvalue())


def written_whole() -> None:
    """From now on this process's DVC writes its files so."""
    from dvc.utils.serialize import _common, _yaml

    for module in (_common, _yaml):
        if not hasattr(module, "_dump_data"):  # another version of DVC
            raise AttributeError(f"{module.__name__} has no _dump_data: DVC writes its files by another name now")
        module._dump_data = _dump
