"""What travels to Spark's executors: this code as one archive, and folders of models. They need the lock's packages,
and neither a checkout nor a disk that they share with the driver.

From a checkout the code is the wheel that hatchling builds; from an installed wheel, its files again. Kept below
`cache/wheels/DIGEST/`, where the digest covers every source, so that a changed line is another archive. It is named
.zip, since Spark puts only .zip, .egg and .jar on the executors' path, and is imported from as it is: code below
`pipelines` that runs in an executor reads no file beside itself.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pipelines
from pipelines.errors import BackendError
from pipelines.settings import checkout

NAME = "assay.zip"
_SOURCES = ("pyproject.toml", "dvc.yaml", "params.yaml", "README.md", "requirements.lock")


def packed(folder: Path, *, below: Path, name: str) -> Path:
    """A folder that never changes (`name` is its digest) as `below/NAME.zip`, made once, whole or absent."""
    target = below / f"{name}.zip"
    if not target.is_file():
        below.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=below, prefix=".pack-") as temporary:
            made = Path(temporary) / target.name
            with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as out:  # weights do not compress
                for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                    out.write(file, file.relative_to(folder))
            made.replace(target)
    return target


def arrived(folder: str, *, name: str) -> Path:
    """A folder of the driver as this process sees it: itself, or what Spark unpacked as `name` in the executor's own
    folder."""
    here = Path(name)
    return Path(folder) if Path(folder).is_dir() or not here.is_dir() else here.resolve()


def _sources(root: Path) -> Iterator[Path]:
    """The files that a wheel of `root` is made of, sorted."""
    folders = [root / name for name in ("pipelines", "models") if (root / name).is_dir()]
    found = [file for folder in folders for file in folder.rglob("*") if "__pycache__" not in file.parts]
    yield from sorted(file for file in [*found, *(root / name for name in _SOURCES)] if file.is_file())


def sources_digest(root: Path) -> str:
    """16 hex digits over the names and bytes of what the wheel of `root` is made of."""
    total = hashlib.sha256()
    for file in _sources(root):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(root).as_posix()} {digest}\n".encode())
    return total.hexdigest()[:16]


def _root() -> Path:
    """What a wheel of this code is made of: the checkout, or the folder that it is installed in."""
    package, root = Path(pipelines.__file__).resolve().parent, checkout()
    return package.parent if root.parent == package else root  # the wheel has its own copy of dvc.yaml and models


def running_digest() -> str:
    """`sources_digest` of the code that runs."""
    return sources_digest(_root())


def _build(root: Path, folder: Path) -> Path:
    """A wheel of `root` in `folder`. BackendError when hatchling is not installed or says no."""
    try:
        from hatchling.builders.wheel import WheelBuilder

        (made,) = WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"])
    except Exception as exc:  # hatchling raises bare exceptions
        raise BackendError(f"the wheel of {root} could not be built: {exc}; run: make setup") from exc
    return Path(made)


def archive(cache: Path) -> Path:
    """The archive of this code below `cache`, built on first use, whole or absent."""
    package, root = Path(pipelines.__file__).resolve().parent, _root()
    installed = root != checkout()
    target = cache / "wheels" / running_digest() / NAME
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as temporary:
        if installed:
            made = shutil.make_archive(f"{temporary}/installed", "zip", package.parent, package.name)
        else:
            made = str(_build(root, Path(temporary)))
        Path(made).replace(target)
    return target
