# SPDX-License-Identifier: Apache-2.0
"""Where the processes of one attempt find each other when torchrun has started them again.

torchrun (seen with PyTorch 2.13) keeps one store for all its attempts. A restarted process would find in it the addresses
of processes that are gone, and fail to connect. So the processes of each attempt agree on a prefix of their own first.
"""

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

_POLL_S = 0.05


def fresh_store(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """``(store, rank, world size)`` from torchrun's environment; the store holds nothing of earlier attempts. Collective.

    Raises:
        dist.DistStoreError: not all processes came within ``timeout``.
    """
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return store, rank, world_size
    prefix = _invite(store, world_size, timeout) if rank == 0 else _accept(store, rank, timeout)
    return dist.PrefixStore(prefix, store), rank, world_size


def _invite(store: dist.Store, world_size: int, timeout: timedelta) -> str:
    """Rank 0: offer a new prefix, collect a word of every other rank, and publish all words as the sign to start."""
    prefix = uuid.uuid4().hex
    store.set("invitation", prefix)
    answers = [f"{prefix}/answer/{rank}" for rank in range(1, world_size)]
    words = [store.get(answer).decode() for answer in answers]
    store.set(f"{prefix}/start", ",".join(words))
    return prefix


def _accept(store: dist.Store, rank: int, timeout: timedelta) -> str:
    """Any other rank: answer invitations until one starts with this process's own word; an old one never does."""
    word, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        prefix = store.get("invitation").decode()
        store.set(f"{prefix}/answer/{rank}", word)
        if store.check([f"{prefix}/start"]) and word in store.get(f"{prefix}/start").decode().split(","):
            return prefix
        time.sleep(_POLL_S)
    raise dist.DistStoreError(f"rank 0 did not come within {timeout.total_seconds():.0f} s")
