# SPDX-License-Identifier: Apache-2.0
"""Learning rates in closed form."""

import math

import pytest

from cosmos1.errors import ConfigError
from cosmos1.training.config import Checkpointing, LRScheduler, MegatronOptimizer, OptimizerConfig, Trainer
from cosmos1.training.schedule import learning_rate

LR = 2e-3


def rates(schedule: LRScheduler, max_steps: int) -> list[float]:
    return [learning_rate(schedule, LR, max_steps, step) for step in range(max_steps + 3)]


def test_constant():
    assert rates(LRScheduler(), 10) == [LR] * 13


def test_warmup_then_hold():
    schedule = LRScheduler(policy="warmup_hold", warmup_steps=4, warmup_ratio=0.2)
    expected = [LR * (0.2 + 0.8 * (step + 1) / 5) for step in range(4)] + [LR] * 9
    assert rates(schedule, 10) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("policy", ["constant", "warmup_hold", "cosine", "annealing"])
def test_warmup_from_zero_never_wastes_a_step(policy):
    schedule = LRScheduler(policy=policy, warmup_steps=3)
    values = rates(schedule, 10)
    assert values[:4] == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR], rel=1e-12)


def test_cosine():
    schedule = LRScheduler(policy="cosine", warmup_steps=2, hold_steps=3, min_lr=1e-4)
    values = rates(schedule, 25)
    assert values[2:6] == [LR] * 4
    for step in range(5, 25):
        expected = 1e-4 + (LR - 1e-4) * (1 + math.cos(math.pi * (step - 5) / 20)) / 2
        assert values[step] == pytest.approx(expected, rel=1e-12)
    assert values[15] == pytest.approx((LR + 1e-4) / 2, rel=1e-12)
    assert values[25:] == pytest.approx([1e-4] * 3, rel=1e-12)


def test_annealing_falls_linearly_to_its_own_end():
    schedule = LRScheduler(policy="annealing", hold_steps=2, decay_steps=12, min_lr=5e-4)
    values = rates(schedule, 100)
    assert values[:3] == [LR] * 3
    for step in range(2, 13):
        assert values[step] == pytest.approx(5e-4 + (LR - 5e-4) * (12 - step) / 10, rel=1e-12)
    assert values[12:] == [5e-4] * 91


def test_no_room_to_decay():
    schedule = LRScheduler(policy="cosine", warmup_steps=2, hold_steps=8, decay_steps=10)
    values = rates(schedule, 12)
    assert values[9] == LR
    assert values[11:] == pytest.approx([0.0] * 4, abs=1e-15)


@pytest.mark.parametrize(
    "settings, words",
    [
        (MegatronOptimizer(OptimizerConfig(lr=0.0)), ["optim.config.lr=0.0", "positive"]),
        (MegatronOptimizer(OptimizerConfig(lr=1e-5), LRScheduler(min_lr=1e-4)), ["min_lr=0.0001", "lr=1e-05"]),
        (MegatronOptimizer(lr_scheduler=LRScheduler(warmup_steps=-1)), ["warmup_steps"]),
        (MegatronOptimizer(ema_widths=[0.1, 0.5]), ["ema_widths=[0.1, 0.5]", "0.28"]),
        (Trainer(max_steps=0), ["trainer.max_steps=0", "1 or more"]),
        (Trainer(log_every_n_steps=0), ["trainer.log_every_n_steps=0"]),
        (Trainer(max_bad_steps=0), ["trainer.max_bad_steps=0"]),
        (Checkpointing(every_n_train_steps=0), ["log.ckpt.every_n_train_steps=0"]),
        (Checkpointing(keep_last_k=0), ["log.ckpt.keep_last_k=0", "-1"]),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ConfigError) as caught:
        settings.validate()
    for word in words:
        assert word in str(caught.value)
