"""Add a corpus: a block in params.yaml, comments and order of the rest kept, and nothing else."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.actions.landing import LINES
from pipelines.core.names import CORPUS_FORM, valid_corpus_name
from pipelines.errors import BadConfig, BadInput
from pipelines.locks import exclusive
from pipelines.settings import Settings


def add_corpus(
    settings: Settings, name: str, *, documents: Path, questions: Path | None = None, examples: Path | None = None
) -> None:
    """Write the block of corpus `name` into the parameter file, whole or not at all.

    BadInput for a name that is not valid or already there, for a path that does not exist, and for a documents path
    that is neither a folder nor a .jsonl file; BadConfig when the file itself is not usable.
    """
    if not valid_corpus_name(name):
        raise BadInput(f"corpus name {name!r} is not valid; a name is {CORPUS_FORM}")
    if documents.is_file() and documents.suffix.lower() != LINES:
        raise BadInput(f"--documents {documents} is a file; it is a folder, or a {LINES} file with a document a line")
    file = settings.params_file
    source = {
        option: stored(path, option=option, file=file)
        for option, path in (("documents", documents), ("questions", questions), ("examples", examples))
        if path is not None
    }
    with exclusive(settings.home / "run" / "params.lock", patience=30, what=f"{file.name}"):
        if name in params.load(file):
            raise BadInput(f"corpus {name!r} is already in {file.name}")
        _replace(file, _with_block(file.read_text(encoding="utf-8"), name, {"source": source}))


def stored(path: Path, *, option: str, file: Path) -> str:
    """How a path is written into params.yaml: relative to its folder when below or beside it, else absolute."""
    absolute = Path(os.path.normpath(Path.cwd() / path.expanduser()))
    if not absolute.exists():
        raise BadInput(f"--{option} {path} does not exist")
    folder = file.parent
    if absolute.is_relative_to(folder) or absolute.is_relative_to(folder.parent):
        return Path(os.path.relpath(absolute, folder)).as_posix()
    return str(absolute)


def _with_block(text: str, name: str, block: dict[str, Any]) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    document = yaml.load(text)
    if not isinstance(document.get("corpora"), CommentedMap):
        document["corpora"] = CommentedMap()
    document["corpora"][name] = CommentedMap((key, CommentedMap(value)) for key, value in block.items())
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _replace(file: Path, text: str) -> None:
    """By rename, after the new text was read back as parameters."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        params.load(temporary)
        temporary.chmod(file.stat().st_mode & 0o777)
        temporary.replace(file)
    except OSError as exc:
        raise BadConfig(f"{file} cannot be written: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)
