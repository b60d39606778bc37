# SPDX-License-Identifier: Apache-2.0
"""Names ranks that make the others wait.

All ranks of a synchronous step take equally long, so the step time itself does not tell who is slow. Two things that each
rank does alone do tell: how long it waits for its data, and how long its device takes for a small fixed product of
matrices (a GPU that is throttled or shared is slower at that too).
"""

import socket
import statistics
import time

import torch
import torch.distributed as dist

from cosmos1.parallel import device as devices

_REPEATS = 5


class StragglerReport:
    """Compares the ranks once per log interval. All ranks call the same methods."""

    def __init__(self, percent: float):
        self.percent = percent
        self._data_time_s, self._num_steps = 0.0, 0
        self._suspects: set[tuple[int, str]] = set()
        self._named: set[tuple[int, str]] = set()
        self.hosts: list[str] = [""] * dist.get_world_size()
        if percent:
            dist.all_gather_object(self.hosts, socket.gethostname())
            self._factors = _fixed_matrices()
            product_seconds(self._factors)  # the first one loads libraries

    def add(self, data_time_s: float) -> None:
        """How long this rank waited for the data of one step."""
        self._data_time_s += data_time_s
        self._num_steps += 1

    def compare(self, step_time_s: float) -> list[str]:
        """Lines about ranks that turned out slow in this and the last interval, each said once. Collective.

        ``step_time_s`` is what a step takes now: a wait for data counts when it is a considerable part of it.
        """
        if not self.percent or len(self.hosts) == 1:
            return []
        own = torch.tensor([product_seconds(self._factors), self._data_time_s / max(self._num_steps, 1)])
        self._data_time_s, self._num_steps = 0.0, 0
        gathered = [torch.empty_like(own) for _ in self.hosts]
        dist.all_gather(gathered, own)
        product_s, data_s = torch.stack(gathered).T.tolist()
        slow = find_slow(product_s, data_s, step_time_s, self.percent)
        confirmed = {key: text for key, text in slow.items() if key in self._suspects}
        lines = [
            f"straggler: rank {r} on {self.hosts[r]} {t}"
            for (r, what), t in confirmed.items()
            if (r, what) not in self._named
        ]
        lines += [
            f"no longer slow: rank {rank} on {self.hosts[rank]} ({what})"
            for rank, what in sorted(self._named - slow.keys())
        ]
        self._named = set(confirmed)
        self._suspects = set(slow)
        return lines


def find_slow(
    product_s: list[float], data_s: list[float], step_time_s: float, percent: float
) -> dict[tuple[int, str], str]:
    """``{(rank, "computing" or "data"): what is slow}`` from the seconds of each rank.

    Computing is slow at ``percent`` above the median, waiting for data at ``percent`` of a step above the median.
    """
    # The lower one of two in the middle: of two ranks the faster one is the measure.
    product_median, data_median = statistics.median_low(product_s), statistics.median_low(data_s)
    slow = {}
    for rank, (product, data) in enumerate(zip(product_s, data_s)):
        if product > (1 + percent / 100) * product_median:
            slow[rank, "computing"] = (
                f"computes {product / product_median - 1:.0%} slower than the median rank ({1000 * product:.2f} ms against "
                f"{1000 * product_median:.2f} ms for a fixed product of matrices)"
            )
        if data > data_median + percent / 100 * step_time_s:
            slow[rank, "data"] = f"waits {data:.2f} s per step for its data, the median rank {data_median:.2f} s"
    return slow


def _fixed_matrices() -> torch.Tensor:
    size, dtype = (4096, torch.bfloat16) if devices.is_cuda() else (256, torch.float32)
    return torch.full((size, size), 1.0 / size, dtype=dtype, device=devices.device())


def product_seconds(matrix: torch.Tensor) -> float:
    """The shortest of five products of the matrix with itself, in seconds: about 1 ms on a CPU core, 0.2 ms on a GPU."""
    shortest = float("inf")
    for _ in range(_REPEATS):
        devices.synchronize()
        started = time.perf_counter()
        matrix @ matrix
        devices.synchronize()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest
