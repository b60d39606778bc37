# SPDX-License-Identifier: Apache-2.0
"""Which GPUs a benchmark may use, and sharing them out among programs that run side by side."""

import contextlib
import os
import threading

import torch


def visible_gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them: those that it was given, or all."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name for name in given.split(",") if name]


class GPUs:
    """Hands out the first ``num_gpus`` to cases that run side by side, each GPU to at most ``share`` of them."""

    def __init__(self, num_gpus: int, share: int):
        self.names = visible_gpus() or [""] * num_gpus
        self.num_users, self.share, self.changed = [0] * num_gpus, share, threading.Condition()

    @contextlib.contextmanager
    def some(self, num_gpus: int):
        """The least used ``num_gpus``, as soon as they are free, as CUDA_VISIBLE_DEVICES names them."""
        with self.changed:
            self.changed.wait_for(lambda: sum(users < self.share for users in self.num_users) >= num_gpus)
            chosen = sorted(range(len(self.num_users)), key=self.num_users.__getitem__)[:num_gpus]
            self._count(chosen, 1)
        try:
            yield ",".join(self.names[gpu] for gpu in chosen)
        finally:
            with self.changed:
                self._count(chosen, -1)
                self.changed.notify_all()

    def _count(self, chosen: list[int], change: int) -> None:
        for gpu in chosen:
            self.num_users[gpu] += change
