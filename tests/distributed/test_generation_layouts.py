# SPDX-License-Identifier: Apache-2.0
"""A generated latent does not depend on how many processes share the network or the tokens."""

import os
import subprocess
import sys

import pytest
import torch

from tests.distributed.launching import ROOT

pytestmark = pytest.mark.distributed


def generate(path, tp_size: int, cp_size: int) -> torch.Tensor:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={tp_size * cp_size}"]
    command = [sys.executable, *launcher, "-m", "tests.distributed.generation_worker", path, str(tp_size), str(cp_size)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("alone") / "latent.pt", 1, 1)


@pytest.mark.parametrize("tp_size, cp_size", [(2, 1), (1, 2)], ids=["TP=2", "CP=2"])
def test_shared_by_two_processes(alone, tmp_path, tp_size, cp_size):
    latent = generate(tmp_path / "latent.pt", tp_size, cp_size)
    assert alone.abs().max() > 0.1
    assert (latent - alone).abs().max() < 1e-4 * alone.abs().max()
