"""The definitions in models/generators and models/embedders whose model is hosted: an endpoint that speaks OpenAI's
HTTP API. Read strictly here; nothing is connected to (`backends.endpoint` does).

A definition says what is asked for, what it costs and how fast it may be asked. Where the server is and the key to it
are the environment's: `settings.endpoint_url` and `settings.endpoint_key`, by the endpoint's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from pipelines.core.costs import Spent
from pipelines.definitions import read_yaml
from pipelines.errors import BadConfig
from pipelines.params import Section

Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class Price(Section):
    """As the vendor bills: money per million tokens."""

    input_per_million: Money
    output_per_million: Money = 0.0
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class Limits(Section):
    """How one process may ask. `retries` are beyond the first try."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    retries: Annotated[int, Field(ge=0, le=20)] = 5


class Endpoint(Section):
    """What both kinds of definition say. `tokenizer` names what counts and trims here, on this machine."""

    endpoint: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    model: Text
    tokenizer: Text
    price: Price | None = None
    limits: Limits = Limits()
    licence: str | None = None

    def cost(self, tokens_in: int, tokens_out: int = 0) -> Spent:
        """So many tokens at the stated price; without one, tokens alone."""
        if self.price is None:
            return Spent(tokens_in, tokens_out)
        asked = tokens_in * self.price.input_per_million + tokens_out * self.price.output_per_million
        return Spent(tokens_in, tokens_out, asked / 1e6, self.price.currency)


class HostedGenerator(Endpoint):
    """A chat model. `seed` is sent with every request, where it is not null."""

    seed: int | None = 0


class HostedEmbedder(Endpoint):
    """An embedding model: its vectors' width, the tokens that it reads of a text (special ones included), and the
    texts of one request."""

    dim: Annotated[int, Field(ge=1)]
    window: Annotated[int, Field(ge=4)]
    prefix: str = ""
    batch: Annotated[int, Field(ge=1, le=2048)] = 32


Kind = TypeVar("Kind", HostedGenerator, HostedEmbedder)
_PLACES = {
    HostedGenerator: ("models/generators", "generate.model or generate.untuned"),
    HostedEmbedder: ("models/embedders", "embed.model"),
}


def read_hosted(file: Path, kind: type[Kind]) -> Kind | None:
    """The endpoint that a definition file names; None when its model is on this machine. BadConfig shows the valid
    form."""
    folder, key = _PLACES[kind]
    raw = read_yaml(file, folder=folder, key=key)
    if not isinstance(raw, dict) or "endpoint" not in raw:
        return None
    try:
        return kind.model_validate(raw)
    except ValidationError as exc:
        raise BadConfig(f"{folder}/{file.name}: {_first(kind, exc)}") from exc


def _first(kind: type[Endpoint], error: ValidationError) -> str:
    """The first thing wrong, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("extra_forbidden", "missing"):
        inner: dict[str, type[Section]] = {"price": Price, "limits": Limits}
        owner = inner.get(str(first["loc"][0]), kind) if len(first["loc"]) > 1 else kind
        what = "unknown key" if first["type"] == "extra_forbidden" else "missing key"
        return f"{what} {where!r}; its keys are {', '.join(owner.model_fields)}"
    return f"{where} is {first.get('input')!r}: {first['msg']}"
