"""What answers cost: the CPU time that they took here, or what a hosted model is paid. No I/O; it measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


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


def of_reply(*, cpu_seconds: float | None, cpu_hour: float | None, paid: Spent | None, currency: str) -> float | None:
    """Price of one reply in `currency`, or None when it is not known. A reply that was paid for costs what was paid,
    another the CPU time that it took here."""
    if paid is not None:
        return paid.amount if paid.currency == currency else None
    return None if cpu_seconds is None or cpu_hour is None else cpu_seconds / 3600 * cpu_hour


def in_currency(spent: Mapping[str, Any] | None, currency: str) -> float | None:
    """What was paid, as a `Spent` in JSON says it; 0 where nothing was, None when no price in `currency` is known."""
    if spent is None:
        return 0.0
    return float(spent["amount"]) if spent["amount"] is not None and spent["currency"] == currency else None


@dataclass(frozen=True)
class Running:
    """What an arm costs: `build` once per refresh, `answer` for one reply."""

    build: float
    answer: float

    def a_month(self, answers: int, *, refreshes: float) -> float:
        """Of so many answers and so many refreshes."""
        return self.build * refreshes + self.answer * answers


def break_even(ours: Running, theirs: Running, *, refreshes: float) -> float | None:
    """Answers a month at which both cost the same: from there on the arm with the cheaper answer is the cheaper one.
    None when one is never dearer than the other, whatever the traffic."""
    fixed = (ours.build - theirs.build) * refreshes
    each = theirs.answer - ours.answer
    if each == 0 or fixed / each <= 0:
        return None
    return fixed / each


def of_training(
    *,
    tokens: int,
    seconds: float,
    cpu_seconds: float,
    gpus: int,
    cpu_hour: float | None,
    gpu_hour: float | None = None,
) -> dict[str, float]:
    """What a training took: useful tokens per wall second, hours of CPU and of all GPUs, and their price. No cost where
    the price of an hour that it took is not known: a part of it would be missing."""
    out = {
        "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 else 0.0,
        "cpu_hours": cpu_seconds / 3600,
        "gpu_hours": gpus * seconds / 3600,
    }
    if cpu_hour is not None and (gpu_hour is not None or not gpus):
        out["cost"] = out["cpu_hours"] * cpu_hour + out["gpu_hours"] * (gpu_hour or 0.0)
    return out
