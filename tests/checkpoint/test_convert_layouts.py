# SPDX-License-Identifier: Apache-2.0
"""A model.pt loaded by two processes, each of which cuts out its part, equals the whole."""

import pytest
import torch

from tests.checkpoint.conversion import assert_same, native_values, save_official, small_config
from tests.checkpoint.layouts_worker import LAYOUTS
from tests.distributed.launching import run_ranks


@pytest.mark.distributed
def test_every_layout_gets_the_same_weights(tmp_path):
    config = small_config(1.0, True, num_layers=4)
    save_official(tmp_path / "model.pt", config)
    run_ranks("tests.checkpoint.layouts_worker", [tmp_path / "model.pt", tmp_path], 2, tmp_path)
    expected = {name: tensor.to(torch.float32) for name, tensor in native_values(tmp_path / "model.pt").items()}
    for name in LAYOUTS:
        assert_same(native_values(tmp_path / name), expected)
