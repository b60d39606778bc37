# SPDX-License-Identifier: Apache-2.0
"""Context-parallel attention against one process: outputs, and gradients of queries, keys and values."""

import pytest
import torch

from cosmos1.errors import ConfigError
from cosmos1.parallel.attention import CP_MODES, attend
from cosmos1.parallel.strategy import choose_cp_mode
from tests.distributed.attention_worker import inputs
from tests.distributed.launching import run_ranks

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}


@pytest.fixture(scope="module", params=[2, 4])
def gathered(request, tmp_path_factory):
    """``{(mode, dtype): [output, grad q, grad k, grad v]}`` with the chunks of all ranks put together."""
    folder = tmp_path_factory.mktemp("attention")
    run_ranks("tests.distributed.attention_worker", [folder], request.param, folder)
    parts = [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]
    return {key: [torch.cat(chunks) for chunks in zip(*(part[key] for part in parts))] for key in parts[0]}


def by_formula() -> list[torch.Tensor]:
    """Output and gradients in float64, with the softmax written out."""
    *leaves, grad = (x.double() for x in inputs())
    q, k, v = (x.requires_grad_() for x in leaves)
    weights = (torch.einsum("sbhd,tbhd->bhst", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    output = torch.einsum("bhst,tbhd->sbhd", weights, v)
    output.backward(grad)
    return [output.detach(), q.grad, k.grad, v.grad]


@pytest.mark.distributed
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", CP_MODES)
def test_chunks_together_are_the_whole(mode, dtype, gathered):
    for found, expected, what in zip(gathered[mode, dtype], by_formula(), ("output", "grad q", "grad k", "grad v")):
        error = (found.double() - expected).norm() / expected.norm()
        assert error < TOLERANCE[dtype], f"{mode} {dtype} {what}: {error:.1e}"


def test_one_process_is_the_formula():
    q, k, v, _ = inputs()
    torch.testing.assert_close(attend(q, k, v).double(), by_formula()[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "requested, heads, cp_size, mode",
    [("auto", 8, 4, "ulysses"), ("auto", 6, 4, "allgather"), ("ring", 6, 4, "ring"), ("allgather", 8, 4, "allgather")],
)
def test_the_mode_that_is_used(requested, heads, cp_size, mode):
    assert choose_cp_mode(requested, heads, cp_size) == mode


def test_ulysses_with_too_few_heads_is_refused():
    with pytest.raises(ConfigError, match=r"ulysses.*\(6\).*context_parallel_size \(4\).*allgather"):
        choose_cp_mode("ulysses", 6, 4)
