# SPDX-License-Identifier: Apache-2.0
"""Round trips through every format, bit for bit, and what the formats' own libraries make of the files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos1.checkpoint import folders, writers
from cosmos1.checkpoint.__main__ import main
from cosmos1.checkpoint.formats import open_weights
from cosmos1.checkpoint.layouts import from_native, to_native
from tests.checkpoint.conversion import (
    KINDS,
    NAMES,
    assert_same,
    converted,
    native_values,
    official_weights,
    save_official,
    small_config,
)

DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("ratio, condition", KINDS, ids=NAMES)
def test_pt_through_every_format_and_back(tmp_path, ratio, condition):
    config = small_config(ratio, condition)
    weights = save_official(tmp_path / "model.pt", config)
    for target in ("dist", "nemo"):
        folder = converted(tmp_path / "model.pt", tmp_path / target, target, config)
        assert_same(torch.load(converted(folder, tmp_path / f"{target}.pt", "pt", config), weights_only=True), weights)
    folder = converted(tmp_path / "dist", tmp_path / "diffusers", "diffusers", config)
    without_logvar = {name: tensor for name, tensor in weights.items() if not name.startswith("logvar.")}
    assert_same(torch.load(converted(folder, tmp_path / "d.pt", "pt", config), mmap=True), without_logvar)


@pytest.mark.parametrize("ratio, condition", KINDS, ids=NAMES)
def test_diffusers_through_dist_and_back(tmp_path, ratio, condition, monkeypatch):
    config = small_config(ratio, condition)
    save_official(tmp_path / "model.pt", config, logvar=False)
    monkeypatch.setattr(writers, "SHARD_BYTES", 100_000)
    first = converted(tmp_path / "model.pt", tmp_path / "first", "diffusers", config)
    assert len(list(first.glob("*.safetensors"))) > 3
    # Nothing but config.json says the rotary scale from here on.
    assert main(["convert", str(first), str(tmp_path / "dist"), "--to", "dist"]) == 0
    assert main(["convert", str(tmp_path / "dist"), str(tmp_path / "second"), "--to", "diffusers"]) == 0
    assert (tmp_path / "second/config.json").read_text() == (first / "config.json").read_text()
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_converted_checkpoint_has_the_checksums_of_a_run(tmp_path):
    save_official(tmp_path / "model.pt", small_config(1.0, False))
    assert main(["convert", str(tmp_path / "model.pt"), str(tmp_path / "dist"), "--to", "dist"]) == 0
    checkpoint = folders.resolve(tmp_path / "dist")
    assert "model" in folders.read_recipe(checkpoint) and folders.verify(checkpoint, 0, 1) is None
    recipe = checkpoint.path / folders.RECIPE
    recipe.write_text(recipe.read_text().replace("tokenizer", "tokeniser"))
    assert "recipe.yaml is damaged" in folders.verify(checkpoint, 0, 1)


def test_diffusers_loads_the_export_and_computes_the_same(tmp_path):
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

    from tests.models.reference import build_network, golden_inputs, golden_weights, load_official, tiny_config
    from tests.models.test_network import diffusers_network, diffusers_output

    config = tiny_config(rope_h_extrapolation_ratio=2.0, rope_w_extrapolation_ratio=2.0)
    weights = golden_weights(config)
    torch.save({f"net.{name}": tensor for name, tensor in weights.items()}, tmp_path / "model.pt")
    folder = converted(tmp_path / "model.pt", tmp_path / "transformer", "diffusers", config)
    diffusers_network(config, weights)  # replaces the one torchvision call that the model makes
    model = CosmosTransformer3DModel.from_pretrained(folder)
    inputs = golden_inputs()
    theirs = diffusers_output(model, inputs)
    network = build_network(config)
    load_official(network, config, weights)
    ours = network(**inputs)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_megatron_loads_the_converted_checkpoint(tmp_path):
    from cosmos1.generation.generator import network_of_checkpoint
    from cosmos1.parallel import process_groups
    from cosmos1.parallel.strategy import MegatronStrategy
    from cosmos1.training.config import RestoreConfig
    from cosmos1.training.parallel_model import ParallelModel
    from cosmos1.training.run_state import load_weights

    config = small_config(2.0, True)
    save_official(tmp_path / "model.pt", config, logvar=False)
    for target in ("dist", "diffusers", "nemo"):
        converted(tmp_path / "model.pt", tmp_path / target, target, config)
    process_groups.initialize(MegatronStrategy())
    expected = to_native({n.removeprefix("net."): t.float() for n, t in official_weights(config, logvar=False).items()})
    for seed, source in enumerate(("dist", "diffusers", "nemo", "model.pt")):
        task = network_of_checkpoint(tmp_path / source)
        assert task.config.hidden_size == 64 and task.config.condition_mask
        model = ParallelModel(task, MegatronStrategy(), "fp32", seed=seed, trainable=False)
        report = load_weights(model, RestoreConfig(path=str(tmp_path / source)))
        assert f"{len(expected)} matched, 3 missing" in report[0]
        assert report[1:] == [f"weights: missing logvar.{n}" for n in ("freqs", "linear.weight", "phases")]
        found = {name: tensor for name, tensor in model.networks[0].state_dict().items() if name in expected}
        assert_same(found, expected)


def test_other_ways_to_wrap_a_model_pt(tmp_path):
    config = small_config(1.0, False)
    weights, ema = official_weights(config, seed=1), official_weights(config, seed=2)
    plain = {name.removeprefix("net."): tensor for name, tensor in weights.items()}
    dashes = {name.replace(".", "-"): tensor for name, tensor in ema.items()}
    flat = weights | {n.replace("net.", "net_ema."): t for n, t in ema.items() if n.startswith("net.")}
    cases = {
        "plain": (plain, None, weights),
        "module": ({"module": weights, "iteration": 5}, None, weights),
        "trainer": ({"model": weights, "ema": None, "trained_data_record": {"image": 1}}, None, weights),
        "trainer_ema": ({"model": weights, "ema": dashes}, 0, ema),
        "flat": (flat, None, weights),
        "flat_ema": (flat, 0, ema | {n: t for n, t in weights.items() if n.startswith("logvar.")}),
        "only_ema": ({n: t for n, t in flat.items() if n.startswith("net_ema.")}, None, ema),
    }
    for name, (content, copy, expected) in cases.items():
        torch.save(content | {"x._extra_state": None} if name == "plain" else content, tmp_path / f"{name}.pt")
        found = native_values(tmp_path / f"{name}.pt", copy)
        official = from_native(found, "official")
        named = {n if n.startswith("logvar.") else f"net.{n}": tensor for n, tensor in official.items()}
        assert_same(named, {n: t for n, t in expected.items() if n in named})
        assert set(expected) - set(named) <= {"logvar.0.freqs", "logvar.0.phases", "logvar.1.weight"}


def test_dtype_is_changed_on_request(tmp_path):
    config = small_config(1.0, False)
    weights = save_official(tmp_path / "model.pt", config)
    file = converted(tmp_path / "model.pt", tmp_path / "wide.pt", "pt", config, dtype="fp32")
    assert_same(torch.load(file), {name: tensor.float() for name, tensor in weights.items()})
    back = converted(file, tmp_path / "narrow.pt", "pt", config, dtype="bf16")
    assert_same(torch.load(back), weights)


def test_safetensors_are_read_and_written_as_their_library_does(tmp_path):
    config = small_config(1.0, False)
    save_official(tmp_path / "model.pt", config)
    folder = converted(tmp_path / "model.pt", tmp_path / "ours", "diffusers", config)
    tensors = load_file(folder / DIFFUSERS_FILE)
    (tmp_path / "pipeline/transformer").mkdir(parents=True)
    save_file(tensors, tmp_path / "pipeline/transformer" / DIFFUSERS_FILE)
    assert_same(native_values(tmp_path / "pipeline"), native_values(folder))
    assert open_weights(tmp_path / "pipeline").format == "diffusers"
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "CosmosTransformer3DModel"


def test_inspect_compares_with_a_named_network(tmp_path, capsys):
    config = small_config(1.0, True)
    save_official(tmp_path / "model.pt", config)
    assert main(["inspect", str(tmp_path / "model.pt")]) == 0
    assert "Video2World DiT, width 64, 3 blocks, 4 heads" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "model.pt"), "--model", "tiny"]) == 1
    printed = capsys.readouterr().out
    assert "missing decoder.layers.3.mlp.linear_fc1.weight" in printed
    assert "x_embedder.weight has shape [64, 72], this network needs [256, 68]" in printed
