# SPDX-License-Identifier: Apache-2.0
"""Networks and generated latents do not depend on how many processes share the network or the tokens."""

import pytest
import torch

from tests.distributed.launching import run_ranks
from tests.models.reference import golden_weights, tiny_config

pytestmark = pytest.mark.distributed


def generate(path, tp_size: int, cp_size: int) -> torch.Tensor:
    arguments = [path, tp_size, cp_size]
    run_ranks("tests.distributed.generation_worker", arguments, tp_size * cp_size, path.parent)
    return torch.load(path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("alone") / "latent.pt", 1, 1)


@pytest.mark.parametrize("tp_size, cp_size", [(2, 1), (1, 2)], ids=["TP=2", "CP=2"])
def test_shared_by_two_processes(alone, tmp_path, tp_size, cp_size):
    latent = generate(tmp_path / "latent.pt", tp_size, cp_size)
    assert alone.abs().max() > 0.1
    assert (latent - alone).abs().max() < 1e-4 * alone.abs().max()


@pytest.mark.parametrize("layout, sequence_parallel", [("tp", "no"), ("tp", "sp"), ("cp", "no")])
def test_shared_network_equals_diffusers_forward_and_gradients(tmp_path, layout, sequence_parallel):
    torch.save(golden_weights(tiny_config()), tmp_path / "weights.pt")
    run_ranks("tests.distributed.oracle_worker", [layout, tmp_path / "weights.pt", sequence_parallel], 2, tmp_path)
