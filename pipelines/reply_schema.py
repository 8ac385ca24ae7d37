"""The JSON schema of a reply as a yes-or-no question. It is read from the path that `generate.reply_schema` names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipelines.errors import BadConfig
from pipelines.ports import Ports


def load_validator(path: str | None, ports: Ports) -> Callable[[Any], bool] | None:
    """Whether a parsed reply obeys the schema; None when replies are plain text. BadConfig on an unusable schema."""
    if path is None:
        return None
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    file = ports.path(path)
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
        kind = validator_for(schema)
        kind.check_schema(schema)
    except (OSError, ValueError, SchemaError) as exc:
        reason = getattr(exc, "message", None) or getattr(exc, "strerror", None) or str(exc)
        raise BadConfig(f"generate.reply_schema is {path!r}, which is no JSON schema: {reason}") from exc
    return kind(schema).is_valid  # type: ignore[no-any-return]
