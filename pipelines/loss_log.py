"""What a training says of its losses while it runs, and their curve: for every training, whatever is trained.

It tracks nothing: `also` and the figure go where the caller puts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_EVERY = 10.0  # seconds between two lines of progress


class Progress:
    """Lines such as `train: step 40 of 100, loss 1.234, 310 tokens/s, eta 95 s`: first and last step, and one every ten
    seconds. `what` begins them; `also` gets every step's values."""

    def __init__(self, what: str, also: Callable[[int, Mapping[str, float]], None]) -> None:
        self._what, self._also = what, also
        self._began: tuple[float, int] | None = None
        self._said = 0.0

    def __call__(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if "resumed_from" in values:  # what came before was a replay of the stopped training's losses
            self._began = None
            print(f"{self._what}: going on from step {step} of a training that was stopped", flush=True)
            return
        self._also(step, values)
        at = f"{self._what}: step {step} of {steps}"
        if "validation_loss" in values:
            print(f"{at}, validation loss {values['validation_loss']:.3f}", flush=True)
        if "loss" not in values:
            return
        self._began = self._began or (now, step)
        if step not in (1, steps) and now - self._said < _EVERY:
            return
        self._said = now
        done = step - self._began[1]
        speed = f", {values['step_tokens_per_second']:.0f} tokens/s" if "step_tokens_per_second" in values else ""
        eta = f", eta {(now - self._began[0]) / done * (steps - step):.0f} s" if done else ""
        print(f"{at}, loss {values['loss']:.3f}{speed}{eta}", flush=True)


def curve(history: Sequence[Mapping[str, Any]], *, unit: str) -> Any:
    """The losses by step as a matplotlib figure; `unit` is the y axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o--")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel=unit)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
