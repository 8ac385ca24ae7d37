"""What watches a transformers Trainer, whatever it trains: losses and speed are reported while it trains, its time is
counted, and a checkpoint is marked once all of it is written. transformers is imported on first use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.checkpoints import losses, mark_whole


def watcher(
    on_log: Callable[[Any, Mapping[str, float]], None], *, tokens: Callable[[Any], int], after_step: Callable[[], None]
) -> Any:
    """A callback. `on_log` gets the Trainer's state and an entry's losses, a training loss with
    `step_tokens_per_second`; `tokens` gives the useful tokens of all steps that a state has done."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        began, before, speed = 0.0, 0, 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.before, self.began = tokens(state), time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            taken = time.perf_counter() - self.began
            self.speed = (tokens(state) - self.before) / taken
            after_step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not state.is_world_process_zero:
                return
            seen = losses(logs or {})
            if "loss" in seen and self.speed:
                seen["step_tokens_per_second"] = self.speed
            if seen:
                on_log(state, seen)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                mark_whole(Path(args.output_dir), state.global_step)

    return Watcher()
