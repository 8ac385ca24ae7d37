"""The JSON schema of a reply: whether a reply obeys it, and how much of it. Read from `generate.reply_schema`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import BadConfig
from pipelines.ports import Ports


@dataclass(frozen=True)
class ReplySchema:
    """`schema` as it was read; `validator` is jsonschema's of its draft."""

    schema: Mapping[str, Any]
    validator: Any

    @property
    def text(self) -> str:
        """As a prompt shows it: without what only people and editors read."""
        return json.dumps({k: v for k, v in self.schema.items() if k not in ("$schema", "title")}, ensure_ascii=False)

    def valid(self, reply: Any) -> bool:
        return bool(self.validator.is_valid(reply))

    def style(self, reply: Any) -> float:
        """Share of the schema's demands that a reply meets: one for each of its `properties` (there where it is
        required, and valid), and one for having no other keys where those are refused. Of a reply that is no object
        0; of a schema without `properties` 1 or 0, as it is valid or not."""
        wanted = self.schema.get("properties") or {}
        if not wanted:
            return float(self.valid(reply))
        if not isinstance(reply, Mapping):
            return 0.0
        required = self.schema.get("required") or ()
        met = [
            self.validator.evolve(schema=demand).is_valid(reply[name]) if name in reply else name not in required
            for name, demand in wanted.items()
        ]
        if self.schema.get("additionalProperties") is False:
            met.append(reply.keys() <= wanted.keys())
        return sum(met) / len(met)


def load_schema(path: str | None, ports: Ports) -> ReplySchema | None:
    """The schema at `path`; None when replies are plain text. BadConfig on an unusable schema."""
    if path is None:
        return None
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    file = ports.path(path)
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
        kind = validator_for(schema)
        kind.check_schema(schema)
        if not isinstance(schema, Mapping):  # `true` and `false` are schemas as well
            raise ValueError("a reply's schema is an object")
    except (OSError, ValueError, SchemaError) as exc:
        reason = getattr(exc, "message", None) or getattr(exc, "strerror", None) or str(exc)
        raise BadConfig(f"generate.reply_schema is {path!r}, which is no JSON schema: {reason}") from exc
    return ReplySchema(schema, kind(schema))


def load_validator(path: str | None, ports: Ports) -> Callable[[Any], bool] | None:
    """Whether a parsed reply obeys the schema; None when replies are plain text. BadConfig on an unusable schema."""
    found = load_schema(path, ports)
    return None if found is None else found.valid
