# SPDX-License-Identifier: Apache-2.0
"""Whose control a sample is shown, what is scored, and what cannot be compared. With diffusion: tests/e2e."""

import argparse
import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from cosmos1.checkpoint.store import CheckpointWriter
from cosmos1.conditioning.token_settings import ViewTokens
from cosmos1.data.modules.token_clips import TokenClipsDataModule
from cosmos1.data.modules.token_folder import MultiviewTokensDataModule
from cosmos1.data.video import tensor_to_frames
from cosmos1.errors import CheckpointError, ConfigError, DataError
from cosmos1.evaluation.__main__ import build_parser
from cosmos1.evaluation.control_following import exchanged, run
from cosmos1.evaluation.controlled_samples import build_samples, num_given_frames
from cosmos1.evaluation.held_out import read_samples
from cosmos1.evaluation.metrics import psnr
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.tokenizers.discrete_dct import DiscreteDctTokenizer
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_folder import to_plain
from tests.data.token_files import write_clips

NUM_VIEWS, FRAMES, ROWS, COLUMNS, PER_LATENT = 2, 3, 2, 3, 4


def samples_of(*brightness: float, key: str = "t5_text_embeddings") -> list[dict]:
    return [{"video": torch.zeros(1, 16, 2, 4, 4), key: torch.full((1, 8, 32), value)} for value in brightness]


def test_the_other_control_is_the_next_that_differs():
    samples = samples_of(0.1, 0.1, 0.2, 0.3)
    found = [exchanged(samples, index, "text")["t5_text_embeddings"].flatten()[0].item() for index in range(4)]
    assert found == pytest.approx([0.2, 0.2, 0.3, 0.1])
    with pytest.raises(DataError, match="all 2 samples have the same text"):
        exchanged(samples[:2], 0, "text")


@pytest.mark.parametrize("key", ["plucker_embeddings", "plucker_tokens"])
def test_the_camera_has_a_name_in_each_family(key):
    samples = samples_of(0.1, 0.2, key=key)
    other = exchanged(samples, 0, "camera")
    assert other[key] is samples[1][key] and other["video"] is samples[0]["video"]


def test_views_take_the_place_of_their_neighbours():
    sample = {"view_indices": torch.tensor([[0, 1, 2]])}
    assert exchanged([sample], 0, "views")["view_indices"].tolist() == [[2, 0, 1]]
    with pytest.raises(DataError, match="the samples have one view; at least two"):
        exchanged([{"view_indices": torch.tensor([[0]])}], 0, "views")


def test_a_control_that_the_samples_do_not_have():
    with pytest.raises(
        DataError, match="--control action: the samples have none of action, but t5_text_embeddings, video"
    ):
        exchanged(samples_of(0.1, 0.2), 0, "action")


def test_a_sheet_needs_a_generated_video(tmp_path):
    with pytest.raises(ConfigError, match="give --num_generated as well"):
        run(argparse.Namespace(contact_sheet=tmp_path / "sheet.png", num_generated=0))


def write_samples(folder) -> None:
    """Two samples of random tokens, other ones in every view and sample, and one text for each sample."""
    folder.mkdir()
    for index in range(2):
        generator = torch.Generator().manual_seed(index)
        tokens = torch.randint(64000, (NUM_VIEWS * FRAMES, ROWS, COLUMNS), generator=generator)
        torch.save(tokens.int(), folder / f"{index}.video_tokens.pth")
        torch.save(torch.full((512, 1024), 0.1 * index), folder / f"{index}.t5_text_embeddings.pth")
        torch.save(torch.ones(512), folder / f"{index}.t5_text_mask.pth")
        info = {"fps": 10, "num_frames": 1 + PER_LATENT * (FRAMES - 1), "video_path": str(index)}
        info |= {"views": [f"camera_{view}" for view in range(NUM_VIEWS)]}
        (folder / f"{index}.info.json").write_text(json.dumps(info))


def write_checkpoint(folder) -> None:
    """A run of a tiny network on the samples of `write_samples`."""
    sizes = {"hidden_size": 24, "num_layers": 1, "num_attention_heads": 2, "num_query_groups": 2, "head_dim": 12}
    grid = {"latent_shape": [FRAMES, ROWS, COLUMNS], "views": ViewTokens(NUM_VIEWS)}
    config = GPTConfig(**sizes, ffn_hidden_size=16, video2world=True, **grid)
    task = AutoregressiveModel(config, tokenizer="dct_fsq", compression_factor=[PER_LATENT, 8, 8])
    data = MultiviewTokensDataModule(str(folder / "samples"))
    process_groups.initialize(MegatronStrategy())
    model = ParallelModel(task, MegatronStrategy(), "fp32", seed=3, trainable=False)
    with torch.no_grad():
        model.networks[0].views.weight.normal_()  # zero before training, which would make all orders of the views alike
    shards = model.weights_state()
    writer = CheckpointWriter(folder / "run/checkpoints")
    state = {f"{name}/{place}": part for name, parts in shards.items() for place, part in enumerate(parts)}
    recipe = {"model": to_plain(task), "data": to_plain(data)}
    writer.start("epoch=0-step=1", state, {"recipe.yaml": yaml.safe_dump(recipe)})
    writer.finish()


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_views")
    write_samples(folder / "samples")
    write_checkpoint(folder)
    return folder


def options_for(folder, *others) -> argparse.Namespace:
    words = ["control_following", "--checkpoint", folder / "run", "--data_path", folder / "samples", *others]
    return build_parser().parse_args([str(word) for word in (*words, "--control", "views")])


def pictures(folder, index: int) -> np.ndarray:
    """The frames of a sample, one view beside the other."""
    views = torch.load(folder / f"samples/{index}.video_tokens.pth").chunk(NUM_VIEWS)
    tokenizer = DiscreteDctTokenizer((PER_LATENT, 8, 8))
    return np.concatenate([tensor_to_frames(tokenizer.decode(tokens[None])) for tokens in views], axis=2)


@pytest.mark.parametrize("given, first", [(0, 0), (1, 1), (2, 1 + PER_LATENT)])
def test_psnr_is_that_of_the_frames_after_the_given_ones(two_views, given, first):
    options = options_for(two_views, "--num_generated", 1, "--num_given_latent_frames", given)
    video = run(options)["videos"][0]
    own, other = video["true"], video["shuffled"][0]
    family = build_samples(options)
    with family.model.evaluating():
        generated, real, _ = family.generate(0, family.read()[0])
    assert np.array_equal(real, pictures(two_views, 0)) and len(real) == 1 + PER_LATENT * (FRAMES - 1)
    assert np.array_equal(generated[:first], real[:first]) and not np.array_equal(generated[first], real[first])
    assert own["psnr"] == pytest.approx(psnr(generated[first:], real[first:]).value)
    assert own["loss"] != other["loss"] and own.get("psnr_repeat") == other.get("psnr_repeat")
    assert ("psnr_repeat" in own) == (given > 0)
    if given:
        still = np.broadcast_to(real[first - 1], real[first:].shape)
        assert own["psnr_repeat"] == pytest.approx(psnr(still, real[first:]).value)


def test_given_frames_are_not_scored(two_views):
    family = build_samples(options_for(two_views, "--num_given_latent_frames", 1))
    sample, *_ = family.read()
    with family.model.evaluating():
        losses = [family.loss(0, sample | {"labels": changed(sample["labels"], place)}) for place in (None, 11, 12)]
    assert losses[0] == losses[1] != losses[2]


def changed(labels: torch.Tensor, place: int | None) -> torch.Tensor:
    """Another label at one place of the sequence."""
    labels = labels.clone()
    if place is not None:
        labels[:, place] = 7
    return labels


@pytest.mark.parametrize(
    "mistake, message",
    [
        (("--num_given_latent_frames", FRAMES), "--num_given_latent_frames 3: each view .* has 3 latent .* at most 2"),
        (("--num_given_latent_frames", -1), "--num_given_latent_frames -1: "),
        (("--num_samples", 1), "--num_samples 1; give 2 or more"),
        (
            ("--tp_size", 4),
            "--tp_size 4 x --cp_size 1 = 4, but 1 processes run; start torchrun with --nproc_per_node=4",
        ),
        (("--cp_size", 2), "an autoregressive network share each layer; use --tp_size alone"),
    ],
)
def test_options_that_fit_neither_samples_nor_processes(two_views, mistake, message):
    with pytest.raises(ConfigError, match=message):
        run(options_for(two_views, *mistake))


def test_given_pixel_frames():
    assert [num_given_frames(count, 4, 8) for count in range(4)] == [0, 1, 9, 17]
    assert [num_given_frames(count, 3, 1) for count in range(3)] == [0, 1, 2]
    with pytest.raises(ConfigError, match="has 1 latent frames; give 0 or more, and at most 0"):
        num_given_frames(1, 1, 8)


TEXT_CONTROLLED = AutoregressiveModel(GPTConfig(video2world=True))


def record_data(run, recorded: dict) -> None:
    """A checkpoint without weights, whose run had these settings of data."""
    context = run / "checkpoints/epoch=0-step=1/context"
    context.mkdir(parents=True)
    (context / "recipe.yaml").write_text(yaml.safe_dump({"data": recorded}))


def test_of_token_clips_only_the_part_val_counts(tmp_path):
    clips = write_clips(tmp_path / "clips", train=6, test=1, val=1)
    record_data(tmp_path / "run", to_plain(TokenClipsDataModule(path="clips of training")))
    options = argparse.Namespace(checkpoint=tmp_path / "run", num_samples=4, data_path=clips)
    with pytest.raises(DataError, match="1 held-out samples, .* for TokenClipsDataModule only the part val counts"):
        read_samples(options, TEXT_CONTROLLED)
    options.data_path = write_clips(tmp_path / "more", train=1, test=0, val=3)
    assert [sample["tokens"][0, 1].item() for sample in read_samples(options, TEXT_CONTROLLED)] == [2000, 2010, 2020]


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"_target_": "cosmos1.data.token_clips.TokenClipsDataModule"}, None, None),
        (
            {"_target_": "theirs.Clips"},
            ConfigError,
            "was trained on theirs.Clips, which is no data module of this suite",
        ),
        ({"width": 3}, CheckpointError, "does not say what its data is: .*width"),
    ],
    ids=["moved", "unknown", "setting"],
)
def test_the_recorded_data_module_is_found_by_its_name(tmp_path, change, error, words):
    record_data(tmp_path / "run", to_plain(TokenClipsDataModule(path="gone")) | change)
    clips = write_clips(tmp_path / "clips", train=1, test=0, val=3)
    options = argparse.Namespace(checkpoint=tmp_path / "run", num_samples=4, data_path=clips)
    if error is None:
        assert len(read_samples(options, TEXT_CONTROLLED)) == 3
    else:
        with pytest.raises(error, match=words):
            read_samples(options, TEXT_CONTROLLED)


def test_weights_without_a_run_are_scored_where_text_alone_controls(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    clips = write_clips(tmp_path / "clips", train=1, test=0, val=3)
    options = argparse.Namespace(checkpoint=tmp_path / "model.safetensors", num_samples=4, data_path=clips)
    assert len(read_samples(options, TEXT_CONTROLLED)) == 3
    views = AutoregressiveModel(GPTConfig(video2world=True, views=ViewTokens(NUM_VIEWS)))
    with pytest.raises(ConfigError, match="does not record which data goes with its control signals; give the folder"):
        read_samples(options, views)
    options.data_path = None
    with pytest.raises(ConfigError, match="does not record its data; give --data_path"):
        read_samples(options, TEXT_CONTROLLED)
