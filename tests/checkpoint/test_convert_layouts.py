# SPDX-License-Identifier: Apache-2.0
"""Official files loaded by two processes, each of which cuts out its part, equal the whole and compute the same."""

import pytest
import torch

from tests.checkpoint.conversion import assert_same, native_values, save_official, small_config, small_gpt
from tests.checkpoint.layouts_worker import LAYOUTS
from tests.distributed.launching import run_ranks


@pytest.mark.distributed
def test_every_layout_gets_the_same_weights(tmp_path):
    configs = {"dit": small_config(1.0, True, num_layers=4), "gpt": small_gpt(True, num_layers=4)}
    files = [tmp_path / f"{name}.pt" for name in configs]
    for file, config in zip(files, configs.values()):
        save_official(file, config)
    run_ranks("tests.checkpoint.layouts_worker", [tmp_path, *files], 2, tmp_path)
    for file in files:
        expected = {name: tensor.to(torch.float32) for name, tensor in native_values(file).items()}
        for name in LAYOUTS:
            assert_same(native_values(tmp_path / file.stem / name), expected)
    whole, split = (torch.load(tmp_path / f"logits_{name}.pt") for name in ("dp", "tp"))
    assert (whole - split).abs().max() < 1e-5 * whole.abs().max()
