# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a function of the step alone, so that resuming needs no state."""

import math

from cosmos1.training.config import LRScheduler


def learning_rate(schedule: LRScheduler, max_lr: float, max_steps: int, step: int) -> float:
    """Learning rate of optimizer step ``step`` (0-based)."""
    if step < schedule.warmup_steps:
        fraction = (step + 1) / (schedule.warmup_steps + 1)
        return max_lr * (schedule.warmup_ratio + (1 - schedule.warmup_ratio) * fraction)
    if schedule.policy in ("constant", "warmup_hold"):
        return max_lr
    decay_start = schedule.warmup_steps + schedule.hold_steps
    decay_end = schedule.decay_steps if schedule.decay_steps is not None else max_steps
    progress = min(max((step - decay_start) / max(decay_end - decay_start, 1), 0.0), 1.0)
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.policy == "cosine" else 1 - progress
    return schedule.min_lr + (max_lr - schedule.min_lr) * remaining
