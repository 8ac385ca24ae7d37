"""What an answer costs from a price table, and what hosted models were paid. No I/O; it measures nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Prices:
    """In one currency: a million tokens in, a million tokens out, an hour of one CPU core. None: not known."""

    input_per_million: float | None
    output_per_million: float | None
    cpu_hour: float | None


def of_reply(prices: Prices, *, tokens_in: int, tokens_out: int, cpu_seconds: float | None) -> float | None:
    """Price of one reply, or None when the prices it takes are not known. A reply whose CPU time was measured was
    made here and costs that time; another was made elsewhere and costs its tokens."""
    if cpu_seconds is not None:
        return None if prices.cpu_hour is None else cpu_seconds / 3600 * prices.cpu_hour
    if prices.input_per_million is None or prices.output_per_million is None:
        return None
    return (tokens_in * prices.input_per_million + tokens_out * prices.output_per_million) / 1e6


@dataclass(frozen=True)
class Spent:
    """Tokens sent and received. `amount` is money in `currency`; both are None where no price is known."""

    tokens_in: int = 0
    tokens_out: int = 0
    amount: float | None = None
    currency: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        tokens = f"{self.tokens_in:,} tokens in and {self.tokens_out:,} out paid"
        return tokens if self.amount is None else f"{tokens}: {self.amount:.4f} {self.currency}"


def total(parts: Iterable[Spent]) -> Spent:
    """The sum. Its amount is None when a part has none, or when the parts are in different currencies: it would not
    be what was paid."""
    found = list(parts)
    currencies = {part.currency for part in found}
    alike = len(currencies) == 1 and all(part.amount is not None for part in found)
    return Spent(
        sum(part.tokens_in for part in found),
        sum(part.tokens_out for part in found),
        sum(part.amount or 0.0 for part in found) if alike else None,
        currencies.pop() if alike else None,
    )
