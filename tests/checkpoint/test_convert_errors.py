# SPDX-License-Identifier: Apache-2.0
"""What is said about weights that cannot be used, and that nothing half-written stays."""

import io
import json
import pickle
import shutil

import pytest
import torch

from cosmos1.checkpoint import layouts
from cosmos1.checkpoint.__main__ import main
from cosmos1.checkpoint.chunked import read_zarr
from cosmos1.checkpoint.convert import ConvertOptions, convert
from cosmos1.checkpoint.formats import open_weights
from cosmos1.errors import CheckpointError
from tests.checkpoint.conversion import (
    assert_same,
    converted,
    native_values,
    official_weights,
    save_official,
    small_config,
)

CONFIG = small_config(1.0, False)
KEY = "net.blocks.block1.blocks.2.block.layer1.weight"


@pytest.fixture
def model_pt(tmp_path):
    save_official(tmp_path / "model.pt", CONFIG)
    return tmp_path / "model.pt"


def refusal(path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        convert(path, path.parent / "out", "dist", ConvertOptions())
    for word in (path.name, *words):
        assert word in str(caught.value)
    assert not list(path.parent.rglob("*unfinished*"))
    assert not (path.parent / "out" / "epoch=0-step=0").exists()


def test_a_missing_and_an_unknown_key_are_named(tmp_path):
    weights = official_weights(CONFIG)
    weights["net.blocks.block1.blocks.2.block.layer9.weight"] = weights.pop(KEY)
    torch.save(weights, tmp_path / "renamed.pt")
    refusal(
        tmp_path / "renamed.pt", "1 missing", "block1.blocks.2.block.layer1.weight", "1 unexpected", "layer9.weight"
    )


@pytest.mark.parametrize("axis", "thw")
def test_one_of_three_position_tables_is_missing(tmp_path, axis):
    weights = official_weights(CONFIG)
    del weights[f"net.extra_pos_embedder.pos_emb_{axis}"]
    torch.save(weights, tmp_path / "partial.pt")
    refusal(tmp_path / "partial.pt", "1 missing", f"extra_pos_embedder.pos_emb_{axis}")


def test_a_tensor_of_another_shape(tmp_path):
    weights = official_weights(CONFIG)
    weights[KEY] = weights[KEY][:-1].clone()
    torch.save(weights, tmp_path / "odd.pt")
    refusal(tmp_path / "odd.pt", "mlp.linear_fc1.weight has shape [255, 64], this network needs [256, 64]", "inspect")


def test_cut_off_model_pt(model_pt):
    model_pt.write_bytes(model_pt.read_bytes()[:-5000])
    refusal(model_pt, "cannot be read as weights", "compare its size")


def test_a_model_pt_with_code_in_it_is_refused_unread(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"net.x": Malicious()}, tmp_path / "bad.pt")
    refusal(tmp_path / "bad.pt", "tensors and plain containers only")
    assert not (tmp_path / "owned").exists()


def test_metadata_with_code_in_it_is_refused_unread(tmp_path, model_pt):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    folder = converted(model_pt, tmp_path / "nemo", "nemo", CONFIG)
    (folder / "weights/.metadata").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError, match="io.open has no place in checkpoint metadata"):
        open_weights(folder)
    assert not (tmp_path / "owned").exists()


def test_cut_off_and_missing_safetensors(tmp_path, model_pt, monkeypatch):
    from cosmos1.checkpoint import writers

    monkeypatch.setattr(writers, "SHARD_BYTES", 100_000)
    folder = converted(model_pt, tmp_path / "diffusers", "diffusers", CONFIG)
    shards = sorted(folder.glob("*.safetensors"))
    content = shards[1].read_bytes()
    for length in (len(content) - 1, 100, 4):
        shards[1].write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=f"{shards[1].name} is cut off or damaged"):
            open_weights(folder)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[1].name} is missing"):
        open_weights(folder)


def test_a_damaged_source_leaves_nothing_behind(tmp_path, model_pt):
    folder = converted(model_pt, tmp_path / "nemo", "nemo", CONFIG)
    file = folder / "weights/__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-50_000])
    refusal(folder, "cannot be read, the file is missing or damaged")


def test_the_wrong_network_for_a_checkpoint(tmp_path, model_pt):
    from cosmos1.models.diffusion.model import DiffusionModel
    from cosmos1.parallel import process_groups
    from cosmos1.parallel.strategy import MegatronStrategy
    from cosmos1.training.config import RestoreConfig
    from cosmos1.training.parallel_model import ParallelModel
    from cosmos1.training.run_state import load_weights

    process_groups.initialize(MegatronStrategy())
    cases = [
        (small_config(1.0, True), "x_embedder.weight has shape [64, 68], this network needs [64, 72]"),
        (small_config(1.0, False, num_layers=4), "weights missing (first: ['decoder.layers.3."),
        (small_config(1.0, False, num_layers=2), "unexpected (first: ['decoder.layers.2."),
    ]
    for config, words in cases:
        model = ParallelModel(DiffusionModel(config), MegatronStrategy(), "fp32", seed=0, trainable=False)
        with pytest.raises(CheckpointError) as caught:
            load_weights(model, RestoreConfig(path=str(model_pt)))
        assert words in str(caught.value) and "use the recipe of that network" in str(caught.value)


def test_places_that_hold_no_weights(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(tmp_path / "empty")]) == 2
    assert "holds no checkpoint of this suite" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "does not exist; give a model.pt" in capsys.readouterr().err
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pt")
    assert main(["inspect", str(tmp_path / "other.pt")]) == 2
    assert "no weights of a Cosmos network" in capsys.readouterr().err


def test_a_destination_in_use_is_left_alone(tmp_path, model_pt):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    for target in ("dist", "pt", "diffusers", "nemo"):
        with pytest.raises(CheckpointError, match="out exists and is not empty"):
            convert(model_pt, tmp_path / "out", target, ConvertOptions())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        convert(model_pt, model_pt, "pt", ConvertOptions())


def test_ema_copies_that_are_not_there(tmp_path, model_pt):
    folder = converted(model_pt, tmp_path / "dist", "dist", CONFIG)
    with pytest.raises(CheckpointError, match="has 0 EMA copies; there is no number 1"):
        open_weights(folder, ema=1)
    with pytest.raises(CheckpointError, match="holds no EMA copy"):
        open_weights(model_pt, ema=0)


def test_dense_modulation_of_nemo_is_refused(tmp_path, model_pt):
    matrix = torch.block_diag(*torch.randn(3, 6, 2))
    assert layouts.off_diagonal_share(matrix) == 0
    matrix[0, 5] = 0.1 * torch.linalg.vector_norm(matrix)
    assert layouts.off_diagonal_share(matrix) == pytest.approx(0.1 / 1.01**0.5)
    folder = converted(model_pt, tmp_path / "nemo", "nemo", CONFIG)
    make_modulation_dense(folder / "weights")
    refusal(folder, "layers.1.adaLN", "outside the three diagonal blocks", "dense")


def make_modulation_dense(weights) -> None:
    """Change one off-diagonal value of block 1, in the checkpoint's own file."""
    metadata = pickle.loads((weights / ".metadata").read_bytes())
    name = "module.decoder.layers.adaLN.adaLN_modulation.2.weight"
    place = next(p for i, p in metadata.storage_data.items() if i.fqn == name and i.offset[0] == 1)
    file = weights / place.relative_path
    content = bytearray(file.read_bytes())
    tensor = torch.load(io.BytesIO(content[place.offset : place.offset + place.length]))
    tensor[0, 0, -1] = 5.0
    changed = io.BytesIO()
    torch.save(tensor, changed)
    assert len(changed.getvalue()) == place.length
    content[place.offset : place.offset + place.length] = changed.getvalue()
    file.write_bytes(content)


def write_zarr(folder, name: str, tensor: torch.Tensor, chunk: tuple[int, ...], **changes) -> None:
    """One zarr version 2 array, chunk files padded to full size."""
    array = folder / name
    array.mkdir(parents=True)
    header = {"zarr_format": 2, "shape": list(tensor.shape), "chunks": list(chunk), "dtype": "bfloat16", "order": "C"}
    header |= {"compressor": None, "fill_value": None, "filters": None} | changes
    (array / ".zarray").write_text(json.dumps(header))
    padded = torch.zeros([-(-n // c) * c for n, c in zip(tensor.shape, chunk)], dtype=tensor.dtype)
    padded[tuple(slice(0, n) for n in tensor.shape)] = tensor
    counts = [n // c for n, c in zip(padded.shape, chunk)]
    for index in torch.cartesian_prod(*(torch.arange(n) for n in counts)).view(-1, len(counts)).tolist():
        part = padded[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunk))].contiguous()
        (array / ".".join(map(str, index))).write_bytes(part.view(torch.uint8).numpy().tobytes())


def test_nemo_in_zarr_equals_nemo_in_torch_dist(tmp_path, model_pt):
    from cosmos1.checkpoint.chunked import read_torch_dist

    folder = converted(model_pt, tmp_path / "nemo", "nemo", CONFIG)
    for name, array in read_torch_dist(folder / "weights").items():
        if not name.startswith("module.logvar"):
            tensor = array.whole().load()
            chunk = (1, *(-(-n // 2) for n in tensor.shape[1:])) if ".layers." in name else tensor.shape
            write_zarr(tmp_path / "release/nemo/weights", name, tensor, chunk)
    write_zarr(tmp_path / "release/nemo/weights", "module.pos_embedder.seq", torch.zeros(8).bfloat16(), (8,))
    expected = {n: t for n, t in native_values(folder).items() if not n.startswith("logvar.")}
    assert_same(native_values(tmp_path / "release"), expected)
    assert open_weights(tmp_path / "release").format == "nemo"
    shutil.copy(model_pt, tmp_path / "release/model.pt")
    assert open_weights(tmp_path / "release").format == "pt"


def test_zarr_chunks_at_the_edge_and_compressed_ones(tmp_path):
    tensor = torch.randn(5, 7).bfloat16()
    write_zarr(tmp_path, "x", tensor, (2, 3))
    assert torch.equal(read_zarr(tmp_path)["x"].whole().load(), tensor)
    write_zarr(tmp_path, "y", tensor, (2, 3), compressor={"id": "zstd"})
    with pytest.raises(CheckpointError, match="(?s)y is a zarr array.*zstd.*only uncompressed"):
        read_zarr(tmp_path)
