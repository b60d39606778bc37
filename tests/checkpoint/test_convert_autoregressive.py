# SPDX-License-Identifier: Apache-2.0
"""Weights of the video GPT through every format, and the order of the matrices that are one in our layout."""

import json

import pytest
import torch
from safetensors.torch import save_file

from cosmos1.checkpoint.__main__ import main
from cosmos1.checkpoint.convert import ConvertOptions, convert
from cosmos1.checkpoint.formats import open_weights
from cosmos1.errors import CheckpointError
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import RestoreConfig
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights
from tests.checkpoint.conversion import (
    assert_same,
    converted,
    native_values,
    official_weights,
    save_official,
    small_gpt,
)
from tests.models.gpt_reference import golden_inputs, miniature, official_shapes, reference_logits

KINDS = pytest.mark.parametrize("video2world", [False, True], ids=["base", "video2world"])


@KINDS
def test_pt_through_every_format_and_back(tmp_path, video2world):
    config = small_gpt(video2world)
    weights = save_official(tmp_path / "model.pt", config)
    native = native_values(tmp_path / "model.pt")
    for target in ("dist", "nemo"):
        folder = converted(tmp_path / "model.pt", tmp_path / target, target, config)
        assert_same(native_values(folder), native)
        assert_same(torch.load(converted(folder, tmp_path / f"{target}.pt", "pt", config), weights_only=True), weights)
    assert open_weights(tmp_path / "dist").config == config
    again = converted(tmp_path / "dist", tmp_path / "again", "nemo", config)
    assert_same(native_values(again), native)


def test_rows_of_special_tokens_survive(tmp_path):
    config = small_gpt(True)
    weights = save_official(tmp_path / "model.pt", config)
    converted(tmp_path / "model.pt", tmp_path / "nemo", "nemo", config)
    found = native_values(converted(tmp_path / "nemo", tmp_path / "dist", "dist", config))
    assert found["embedding.word_embeddings.weight"].shape == (48 + 8, 40)
    assert torch.equal(found["embedding.word_embeddings.weight"], weights["model.tok_embeddings.weight"])
    assert found["output_layer.weight"].shape == (48, 40)


def test_fused_matrices_have_the_rows_that_the_network_reads(tmp_path):
    """Three query heads, one key head and one value head per group; the gate before the other half."""
    config = small_gpt(True)
    weights = save_official(tmp_path / "model.pt", config)
    found = native_values(tmp_path / "model.pt")
    layer, ours, d = "model.layers.1.", "decoder.layers.1.", config.head_dim
    expected = []
    for group in range(2):
        for head in range(3 * group, 3 * group + 3):
            expected += weights[f"{layer}attention.wq.weight"][head * d : (head + 1) * d]
        expected += weights[f"{layer}attention.wk.weight"][group * d : (group + 1) * d]
        expected += weights[f"{layer}attention.wv.weight"][group * d : (group + 1) * d]
    assert torch.equal(found[f"{ours}self_attention.linear_qkv.weight"], torch.stack(expected))
    keys, values = (weights[f"{layer}cross_attention.w{k}.weight"] for k in "kv")
    expected = [keys[:d], values[:d], keys[d:], values[d:]]
    assert torch.equal(found[f"{ours}cross_attention.linear_kv.weight"], torch.cat(expected))
    gate, other = (weights[f"{layer}feed_forward.w{k}.weight"] for k in (1, 3))
    assert torch.equal(found[f"{ours}mlp.linear_fc1.weight"], torch.cat([gate, other]))


def test_nemo_stores_stacks_under_its_own_names(tmp_path):
    from cosmos1.checkpoint.chunked import read_torch_dist

    config = small_gpt(True)
    weights = save_official(tmp_path / "model.pt", config)
    stored = read_torch_dist(converted(tmp_path / "model.pt", tmp_path / "nemo", "nemo", config) / "weights")
    norms = {
        "self_attention.linear_qkv.layer_norm_weight": "attention_norm",
        "mlp.linear_fc1.layer_norm_weight": "ffn_norm",
        "pre_cross_attn_layernorm.weight": "cross_attention_norm",
    }
    for name, official in norms.items():
        expected = torch.stack([weights[f"model.layers.{n}.{official}.weight"] for n in range(3)])
        assert torch.equal(stored[f"module.decoder.layers.{name}"].whole().load(), expected)
    assert stored["module.decoder.layers.self_attention.linear_qkv.weight"].shape == (3, (6 + 2 * 2) * 12, 40)
    assert "module.embedding.word_embeddings.weight" in stored and "module.output_layer.weight" in stored
    assert not [name for name in stored if "input_layernorm" in name]


def test_other_containers_of_official_weights(tmp_path):
    config = small_gpt(False)
    weights = official_weights(config)
    expected_file = tmp_path / "model.pt"
    torch.save(weights, expected_file)
    expected = native_values(expected_file)
    torch.save({"model": weights}, tmp_path / "nested.pt")
    torch.save({name.removeprefix("model."): tensor for name, tensor in weights.items()}, tmp_path / "plain.pt")
    save_file(weights, tmp_path / "model.safetensors")
    for name in ("nested.pt", "plain.pt", "model.safetensors"):
        assert_same(native_values(tmp_path / name), expected)
        assert open_weights(tmp_path / name).format == "pt"


@pytest.mark.parametrize("yarn", [False, True], ids=["no yarn", "yarn"])
@KINDS
def test_the_network_computes_what_the_official_weights_mean(tmp_path, video2world, yarn):
    """model.pt -> NeMo -> our checkpoint -> the parallel network, against a plain reference on the official weights."""
    process_groups.initialize(MegatronStrategy())
    config, generator = miniature(video2world, yarn), torch.Generator().manual_seed(3)
    official = {
        name: (len(shape) == 1) + 0.2 * (2 * torch.rand(shape, generator=generator) - 1)
        for name, shape in official_shapes(config).items()
    }
    torch.save({f"model.{name}": tensor for name, tensor in official.items()}, tmp_path / "model.pt")
    converted(tmp_path / "model.pt", tmp_path / "nemo", "nemo", config)
    source = converted(tmp_path / "nemo", tmp_path / "dist", "dist", config)
    model = ParallelModel(AutoregressiveModel(open_weights(source).config), MegatronStrategy(), "fp32", 0, False)
    report = load_weights(model, RestoreConfig(str(source)))
    assert report[0].endswith("0 missing and kept at their initial values, 0 unexpected")
    tokens, text, _ = golden_inputs(config)
    with torch.no_grad():
        logits = model.networks[0](tokens, None if text is None else text.float())
    expected = reference_logits(config, {name: t.double() for name, t in official.items()}, tokens, text)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


def save_split(folder, weights: dict[str, torch.Tensor], size: int) -> None:
    """The files of ``size`` tensor-parallel ranks, as the official scripts name and cut them."""
    rows = ("wq.weight", "wk.weight", "wv.weight", "w1.weight", "w3.weight", "tok_embeddings.weight", "output.weight")
    for rank in range(size):
        parts = {}
        for name, tensor in weights.items():
            axis = 0 if name.endswith(rows) else 1 if name.endswith(("wo.weight", "w2.weight")) else None
            parts[name] = tensor if axis is None else tensor.chunk(size, axis)[rank].clone()
        torch.save(parts, folder / f"model_model_mp_{rank}.pt")


def test_files_of_tensor_parallel_ranks_are_put_together(tmp_path):
    config = small_gpt(True)
    weights = official_weights(config)
    save_split(tmp_path, weights, 2)
    expected = tmp_path / "whole" / "model.pt"
    expected.parent.mkdir()
    torch.save(weights, expected)
    for source in (tmp_path, tmp_path / "model_model_mp_1.pt"):
        assert_same(native_values(source), native_values(expected))
    folder = converted(tmp_path, tmp_path / "out", "dist", config)
    assert_same(native_values(folder), native_values(expected))


def test_a_split_that_is_not_complete(tmp_path):
    save_split(tmp_path, official_weights(small_gpt(False)), 4)
    (tmp_path / "model_model_mp_3.pt").unlink()
    with pytest.raises(CheckpointError, match=r"ranks \[0, 1, 2\] are there; a split has ranks 0 to 1, 3 or 7"):
        open_weights(tmp_path)
    torch.save({"model.norm.weight": torch.zeros(40)}, tmp_path / "model_model_mp_3.pt")
    with pytest.raises(CheckpointError, match="model_mp_3.pt and .*model_mp_0.pt hold different names"):
        open_weights(tmp_path)
    torch.save({}, tmp_path / "other_model_mp_0.pt")
    with pytest.raises(CheckpointError, match="holds several splits"):
        open_weights(tmp_path)


def test_unknown_and_missing_keys_are_named(tmp_path):
    for case, words in {
        "unknown": "1 unexpected .first: ..layers.1.attention.bias...",
        "missing": "1 missing .first: ..layers.2.feed_forward.w3.weight..",
        "half_of_cross_attention": "first: ..layers.0.cross_attention.wk.weight...",
    }.items():
        weights = official_weights(small_gpt(True))
        if case == "unknown":
            weights["model.layers.1.attention.bias"] = torch.zeros(1)
        elif case == "missing":
            del weights["model.layers.2.feed_forward.w3.weight"]
        else:
            del weights["model.layers.0.cross_attention.wk.weight"]
        torch.save(weights, tmp_path / f"{case}.pt")
        with pytest.raises(CheckpointError, match=f"{case}.pt.*GPT of 3 layers.*{words}"):
            convert(tmp_path / f"{case}.pt", tmp_path / "out", "dist", ConvertOptions())
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    weights = official_weights(small_gpt(False))
    weights["model.output.weight"] = weights["model.output.weight"][:-1].clone()
    torch.save(weights, tmp_path / "model.pt")
    message = r"embedding.word_embeddings.weight has shape \[48, 40\], this network needs \[47, 40\]"
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model.pt", tmp_path / "out", "dist", ConvertOptions())


def test_requests_that_belong_to_the_other_family(tmp_path, capsys):
    save_official(tmp_path / "model.pt", small_gpt(True))
    arguments = ["convert", str(tmp_path / "model.pt"), str(tmp_path / "out"), "--to"]
    assert main([*arguments, "diffusers"]) == 2
    assert "which has no class in diffusers; use --to pt" in capsys.readouterr().err
    assert main([*arguments, "dist", "--rope_scale", "2", "1", "1"]) == 2
    assert "leave out --rope_scale" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "model.pt"), "--model", "7b"]) == 2
    assert "--model 7b is no GPT" in capsys.readouterr().err


def test_inspect_compares_with_a_named_network(tmp_path, capsys):
    save_official(tmp_path / "model.pt", small_gpt(True))
    assert main(["inspect", str(tmp_path / "model.pt")]) == 0
    printed = capsys.readouterr().out
    assert "Video2World GPT, width 40, 3 layers, 6 heads in 2 groups, 56 token embeddings" in printed
    assert main(["inspect", str(tmp_path / "model.pt"), "--model", "4b"]) == 1
    printed = capsys.readouterr().out
    assert "unexpected decoder.layers.0.cross_attention.linear_q.weight" in printed
    assert "missing decoder.layers.15.mlp.linear_fc2.weight" in printed


def test_published_sizes_are_recognised():
    from cosmos1.checkpoint.networks import expected_shapes, infer_config
    from cosmos1.models.autoregressive.config import gpt_config

    counts = {"4b": 4_014_088_192, "12b": 11_560_975_360, "5b": 4_584_845_312, "13b": 13_323_125_760}
    for size, count in counts.items():
        config = gpt_config(size)
        with torch.device("meta"):
            tensors = {name: torch.empty(shape) for name, shape in expected_shapes(config).items()}
        assert sum(tensor.numel() for tensor in tensors.values()) == count
        assert infer_config(tensors) == config
    assert json.dumps(infer_config(tensors).latent_shape) == "[5, 40, 64]"
