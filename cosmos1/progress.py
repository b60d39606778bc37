# SPDX-License-Identifier: Apache-2.0
"""How far long work is: in place on a terminal, a line now and then in a log."""

import os
import sys
import time


def is_terminal() -> bool:
    """Whether stdout shows lines that are drawn over. Slurm's pseudo-terminals, which end in a file, have TERM=dumb by us."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class Progress:
    """Says how far the work is, how fast it goes, and how long it will take.

    Args:
        total: how much there is to do, in the counts that :meth:`advance` gets.
        unit: what is shown, in the plural.
        enabled: on one rank only.
        label: a name before the numbers.
        per_unit: how many counts are one unit, as 2**30 bytes are one GiB.
    """

    def __init__(self, total: int, unit: str, enabled: bool = True, label: str = "", per_unit: int = 1):
        self.total, self.unit, self.enabled, self.per_unit = total, unit, enabled, per_unit
        self.prefix = f"{label}: " if label else ""
        self.done = 0
        self.started = self.last_advance = self.last_shown = time.monotonic()
        self.in_place = is_terminal()

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.last_advance = now = time.monotonic()
        interval = 0.2 if self.in_place else 10.0
        if not self.enabled or not self.total or (self.done < self.total and now - self.last_shown < interval):
            return
        self.last_shown = now
        rate = self.done / max(now - self.started, 1e-9)
        left = round((self.total - self.done) / rate)
        line = (
            f"{self.prefix}{self._shown(self.done)}/{self._shown(self.total)} {self.unit}, "
            f"{rate / self.per_unit:.2f} {self.unit}/s, {left // 60}:{left % 60:02d} left"
        )
        ending = "\n" if self.done >= self.total or not self.in_place else ""
        print(f"\r{line:78s}" if self.in_place else line, end=ending, flush=True)

    def reach(self, done: int, total: int) -> None:
        """What samplers call back. They start again for the next chunk of a long video."""
        if done <= self.done:
            self.done, self.started = 0, self.last_advance
        self.total = total
        self.advance(done - self.done)

    def _shown(self, count: int) -> str:
        return str(count) if self.per_unit == 1 else f"{count / self.per_unit:.2f}"
