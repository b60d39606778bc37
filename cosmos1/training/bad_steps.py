# SPDX-License-Identifier: Apache-2.0
"""Which optimizer steps are not applied: gradients that are no numbers, and spikes."""

import math
import statistics

import torch
import torch.distributed as dist

from cosmos1.training.config import SpikePolicy
from cosmos1.training.run_state import Progress


def reason_to_skip(grad_norm: float, policy: SpikePolicy, progress: Progress) -> str | None:
    """Why a step with this global gradient norm must not be applied, or None. Keeps the norms that are applied.

    The norm and not the loss is judged: the loss of a diffusion step depends on the noise level drawn for it, and a norm is
    known on every rank without another collective.
    """
    if not math.isfinite(grad_norm):
        return f"gradient norm {grad_norm}"
    if policy.factor is None:
        return None
    recent = progress.recent_grad_norms
    if len(recent) >= policy.window // 5:
        median = statistics.median(recent)
        if grad_norm > policy.factor * median:
            return (
                f"gradient norm {grad_norm:.4g} is more than {policy.factor:g} (trainer.spike.factor) times {median:.4g}, the "
                f"median of {len(recent)} steps"
            )
    recent.append(grad_norm)
    del recent[: -policy.window]
    return None


def agreed(grad_norm: float) -> float:
    """The norm as rank 0 has it, so that a comparison comes out alike everywhere, to the last bit. Collective."""
    shared = torch.tensor([grad_norm], dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return float(shared)
