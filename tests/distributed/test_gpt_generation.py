# SPDX-License-Identifier: Apache-2.0
"""Two processes that share the network generate the tokens that one process does."""

import pytest
import torch

from tests.distributed.gpt_generation_worker import generate
from tests.distributed.launching import run_ranks


@pytest.mark.distributed
def test_shared_by_two_processes(tmp_path):
    run_ranks("tests.distributed.gpt_generation_worker", [tmp_path], 2, tmp_path)
    alone = generate(tp_size=1)
    assert len({tuple(tokens.flatten().tolist()) for tokens in alone.values()}) == 6
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt")
        assert shared.keys() == alone.keys()
        for name, tokens in alone.items():
            assert torch.equal(shared[name], tokens), name
