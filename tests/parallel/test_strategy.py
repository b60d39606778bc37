# SPDX-License-Identifier: Apache-2.0
"""Layouts that cannot work are refused before anything is allocated, with both settings and the remedy."""

import pytest

from cosmos1.errors import ConfigError, DataError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning
from cosmos1.parallel.strategy import MegatronStrategy

TP, PP, CP, VPP = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "virtual_pipeline_model_parallel_size",
)


def small_model(**changes) -> DiffusionModel:
    return DiffusionModel(config=DiTConfig(hidden_size=64, num_layers=4, num_attention_heads=4, **changes))


@pytest.mark.parametrize(
    "layout, world_size",
    [
        ({}, 1),
        ({}, 8),
        ({TP: 4, "sequence_parallel": True}, 8),
        ({PP: 2, VPP: 2}, 2),
        ({TP: 2, PP: 2, CP: 2}, 16),
        ({TP: 2, CP: 2, "fsdp": True}, 8),
    ],
)
def test_layouts_that_work(layout, world_size):
    strategy = MegatronStrategy(**layout)
    small_model().validate(strategy, world_size)
    assert strategy.data_parallel_size(world_size) * strategy.model_parallel_size == world_size


@pytest.mark.parametrize(
    "layout, world_size, words",
    [
        ({TP: 3}, 3, [f"{TP}=3", "4 attention heads", "[1, 2, 4]"]),
        ({TP: 2, PP: 2}, 6, ["6 processes", f"{TP}=2", f"{PP}=2", "= 4", "--nproc_per_node=4"]),
        ({CP: 4}, 2, ["2 processes", f"{CP}=4", "lower one"]),
        ({PP: 2, "fsdp": True}, 2, ["fsdp=true", f"{PP}=2", "fsdp=false"]),
        ({VPP: 2}, 1, [f"{VPP}=2", PP, "None"]),
        ({PP: 2, VPP: 1}, 2, [f"{VPP}=1", PP, "None"]),
        ({"sequence_parallel": True}, 2, ["sequence_parallel=true", TP, "sequence_parallel=false"]),
        ({PP: 3}, 3, ["4 layers", f"{PP}=3", "divisor of 4"]),
        ({PP: 2, VPP: 4}, 2, ["4 layers", f"{PP}=2", f"{VPP}=4", "= 8"]),
        ({TP: 0}, 1, [f"{TP}=0", "1 or more"]),
        ({CP: -1}, 1, [f"{CP}=-1", "1 or more"]),
    ],
)
def test_layouts_that_are_refused(layout, world_size, words):
    with pytest.raises(ConfigError) as caught:
        small_model().validate(MegatronStrategy(**layout), world_size)
    for word in words:
        assert word in str(caught.value)


def test_ulysses_needs_heads_for_every_rank():
    strategy = MegatronStrategy(tensor_model_parallel_size=2, context_parallel_size=4)
    with pytest.raises(
        ConfigError, match=r"context_parallel_mode=ulysses.*\(2\).*context_parallel_size \(4\).*allgather"
    ):
        small_model(context_parallel_mode="ulysses").validate(strategy, 8)
    for mode in ("auto", "allgather", "ring"):
        small_model(context_parallel_mode=mode).validate(strategy, 8)


def test_tokens_must_divide():
    model = small_model()  # [16, 3, 6, 2]: 3 * 3 * 1 tokens
    model.validate_sample(MegatronStrategy(context_parallel_size=3), [16, 3, 6, 2])
    model.validate_sample(MegatronStrategy(tensor_model_parallel_size=2), [16, 3, 6, 2])
    for strategy in (
        MegatronStrategy(context_parallel_size=2),
        MegatronStrategy(tensor_model_parallel_size=2, sequence_parallel=True),
    ):
        with pytest.raises(ConfigError, match=r"9 tokens.*context_parallel_size.*tensor_model_parallel_size"):
            model.validate_sample(strategy, [16, 3, 6, 2])


@pytest.mark.parametrize(
    "shape, error, words",
    [
        ([8, 2, 8, 8], DataError, ["8 channels", "16"]),
        ([16, 2, 7, 8], ConfigError, ["7 x 8", "patch size 2", "multiples of 16"]),
        ([16, 129, 8, 8], ConfigError, ["129 x 8 x 8", "128 x 240 x 240"]),
    ],
)
def test_samples_that_do_not_fit_the_network(shape, error, words):
    with pytest.raises(error) as caught:
        small_model().validate_sample(MegatronStrategy(), shape)
    for word in words:
        assert word in str(caught.value)


def test_given_frames_must_leave_something_to_predict():
    model = small_model(condition_mask=True)
    model.objective = EDMObjective(conditioning=VideoConditioning(max_frames=2))
    model.validate_sample(MegatronStrategy(), [16, 3, 8, 8])
    with pytest.raises(ConfigError, match=r"max_frames=2 leaves nothing.*2 latent frames.*at most 1"):
        model.validate_sample(MegatronStrategy(), [16, 2, 8, 8])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hidden_size": 66}, ["hidden_size=66", "num_attention_heads=4"]),
        ({"hidden_size": 32}, ["width 8", "12 or more"]),
        ({"num_layers": 0}, ["num_layers=0"]),
    ],
)
def test_networks_that_cannot_be(changes, words):
    model = small_model()
    for name, value in changes.items():
        setattr(model.config, name, value)
    with pytest.raises(ConfigError) as caught:
        model.validate(MegatronStrategy(), 1)
    for word in words:
        assert word in str(caught.value)


def test_the_description_names_every_factor():
    strategy = MegatronStrategy(
        tensor_model_parallel_size=2, context_parallel_size=2, sequence_parallel=True, fsdp=True
    )
    assert strategy.describe(8) == "TP=2 + SP, PP=1, CP=2, DP=2, fully sharded over 4 ranks"
    assert MegatronStrategy(pipeline_model_parallel_size=2).describe(8) == "TP=1, PP=2, CP=1, DP=4"
