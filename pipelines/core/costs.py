"""What an answer costs, from a price table. No I/O; it measures nothing."""

from __future__ import annotations

from dataclasses import dataclass


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
