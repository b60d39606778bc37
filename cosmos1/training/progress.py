# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar on a terminal, one plain line per logged step in a log file."""

import time
from typing import Any, Dict, List, Optional

from cosmos1.progress import is_terminal


class ProgressDisplay:
    """Shows step, loss, speed and the time that is left; made on one rank only.

    The time left comes from the mean duration of the last steps, so a slow start or a resumed run does not spoil it.

    Args:
        max_steps: the last step of the run.
        interactive: whether to draw a bar; by default where stdout is a terminal.
    """

    def __init__(self, max_steps: int, interactive: Optional[bool] = None):
        self.max_steps = max_steps
        self.interactive = is_terminal() if interactive is None else interactive
        self.seconds_per_step: Optional[float] = None
        self._last: Optional[tuple] = None
        self._bar: Any = None

    def update(self, step: int, values: Dict[str, float]) -> None:
        """Show the values of one step; values that are absent are left out. Validations get a line of their own."""
        if "loss" in values:
            self._measure(step, values)
        validation = {name: value for name, value in values.items() if name.startswith("val_")}
        if validation:
            shown = [f"{name} {value:.4f}" for name, value in validation.items() if "_sigma_" not in name]
            self.message(" | ".join([f"step {step}/{self.max_steps}", *shown]))
        if "loss" not in values:
            return
        if self.interactive:
            self._draw(step, values)
        else:
            self.message(" | ".join(self._facts(step, values)))

    def message(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _measure(self, step: int, values: Dict[str, float]) -> None:
        now = time.monotonic()
        duration = values.get("step_time_s")
        if self._last is not None and step > self._last[0]:
            # The clock also counts validations and checkpoints, which the time left must include.
            duration = (now - self._last[1]) / (step - self._last[0])
        self._last = (step, now)
        if duration is not None:
            old = self.seconds_per_step
            self.seconds_per_step = duration if old is None else 0.8 * old + 0.2 * duration

    def _facts(self, step: int, values: Dict[str, float]) -> List[str]:
        facts = [f"step {step}/{self.max_steps}", f"loss {values['loss']:.4f}"]
        if "lr" in values:
            facts.append(f"lr {values['lr']:.2e}")
        if "grad_norm" in values:
            facts.append(f"grad_norm {values['grad_norm']:.3f}")
        if "step_time_s" in values:
            facts.append(f"{values['step_time_s']:.2f} s/step")
        if "samples_per_s" in values:
            facts.append(f"{values['samples_per_s']:.2f} samples/s")
        if values.get("mfu"):
            facts.append(f"MFU {values['mfu']:.1%}")
        return facts + [f"{self._time_left(step)} left"]

    def _time_left(self, step: int) -> str:
        if self.seconds_per_step is None:
            return "-:--:--"
        minutes, seconds = divmod(round(self.seconds_per_step * max(self.max_steps - step, 0)), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"

    def _draw(self, step: int, values: Dict[str, float]) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = "step {task.completed}/{task.total}", BarColumn(bar_width=24), TextColumn("{task.description}")
            self._bar = Progress(*columns)
            self._bar.add_task("", total=self.max_steps)
            self._bar.start()
        task = self._bar.task_ids[0]
        self._bar.update(task, completed=step, description=" | ".join(self._facts(step, values)[1:]), refresh=True)
