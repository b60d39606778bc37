# SPDX-License-Identifier: Apache-2.0
"""All model-parallel ranks of a replica train on the same noise, dropout and given frames; replicas on others."""

import pytest

from tests.distributed.launching import job, launch
from tests.distributed.test_layouts import CP, FSDP, MICRO, PP, TP

pytestmark = pytest.mark.distributed

LAYOUTS = {"tp2": {TP: 2}, "cp2": {CP: 2}, "pp2": {PP: 2}, "fsdp2": {FSDP: True}, "dp2": {}}
SHARED = {
    "model.record": True,
    "trainer.max_steps": 2,
    "data.global_batch_size": 8,
    MICRO: 2,
    "model.config.condition_mask": True,
    "model.objective.conditioning.max_frames": 1,
    "model.objective.conditioning.dropout": 0.3,
    "model.objective.text_dropout": 0.5,
}


@pytest.fixture(scope="module")
def drawn(latents, tmp_path_factory):
    """What :meth:`prepare` drew, by layout and rank: a list over micro batches."""
    log_dir = tmp_path_factory.mktemp("noise")
    results = launch([job(name, latents, log_dir, SHARED | settings) for name, settings in LAYOUTS.items()], 2)
    return {name: [rank["drawn"] for rank in ranks] for name, ranks in results.items()}


def by_position(*ranks) -> dict[int, tuple]:
    """Everything that was drawn for each sample position, over the micro batches of these ranks."""
    found = {}
    for micro_batch in (m for rank in ranks for m in rank):
        names = [name for name in micro_batch if name != "positions"]
        for index, position in enumerate(micro_batch["positions"]):
            assert position not in found, "a sample was prepared twice"
            found[position] = tuple(micro_batch[name][index] for name in names)
    return found


@pytest.mark.parametrize("name", ["tp2", "cp2", "pp2"])
def test_model_parallel_ranks_draw_alike(name, drawn):
    first, second = drawn[name]
    assert len(first) == 8  # two steps of four micro batches
    assert first == second


@pytest.mark.parametrize("name", ["dp2", "fsdp2"])
def test_replicas_hold_other_samples_and_draw_other_noise(name, drawn):
    first, second = (by_position(rank) for rank in drawn[name])
    assert not first.keys() & second.keys()
    assert not {draws[:2] for draws in first.values()} & {draws[:2] for draws in second.values()}


@pytest.mark.parametrize("name", ["cp2", "pp2", "fsdp2", "dp2"])
def test_a_sample_draws_the_same_under_every_layout(name, drawn):
    ranks = drawn[name] if name in ("dp2", "fsdp2") else drawn[name][:1]
    assert by_position(*ranks) == by_position(drawn["tp2"][0])


def test_every_draw_varies(drawn):
    draws = by_position(drawn["tp2"][0])
    assert sorted(draws) == list(range(16))
    columns = list(zip(*draws.values()))
    sigma, noise, text_kept, num_given = columns[:4]
    assert len(set(sigma)) == len(set(noise)) == 16
    assert set(text_kept) == {True, False}
    assert set(num_given) == {0, 1}
