# SPDX-License-Identifier: Apache-2.0
"""A model.pt loaded by two processes, each of which cuts out its part, equals the whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.conversion import assert_same, native_values, save_official, small_config
from tests.checkpoint.layouts_worker import LAYOUTS

ROOT = Path(__file__).parents[2]


@pytest.mark.distributed
def test_every_layout_gets_the_same_weights(tmp_path):
    config = small_config(1.0, True, num_layers=4)
    save_official(tmp_path / "model.pt", config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["tests.checkpoint.layouts_worker", str(tmp_path / "model.pt"), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-3000:]
    expected = {name: tensor.to(torch.float32) for name, tensor in native_values(tmp_path / "model.pt").items()}
    for name in LAYOUTS:
        assert_same(native_values(tmp_path / name), expected)
