# SPDX-License-Identifier: Apache-2.0
"""Scores of held-out samples in a real training run of one process."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.data.video import tensor_to_frames
from cosmos1.errors import ConfigError
from cosmos1.evaluation.callback import EvaluateSamples
from cosmos1.evaluation.metrics import psnr
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.tokenizers.dct import DctTokenizer
from cosmos1.training.config import Logger, MegatronOptimizer, Trainer
from cosmos1.training.metrics import read_metrics
from cosmos1.training.sampling import held_out_samples
from cosmos1.training.train import train


@pytest.fixture
def latents(tmp_path):
    """Six samples of six videos, three of them held out."""
    folder = tmp_path / "latents"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(6):
        torch.save(torch.randn(16, 2, 4, 4, generator=generator), folder / f"{index}.video_latent.pth")
        torch.save(torch.randn(512, 1024, generator=generator), folder / f"{index}.t5_text_embeddings.pth")
        torch.save(torch.ones(512), folder / f"{index}.t5_text_mask.pth")
        facts = {"fps": 24.0, "num_frames": 9, "video_path": f"{index}.mp4", "start_frame": 0}
        (folder / f"{index}.info.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def fit(latents, tmp_path):
    """Train two steps, validating after each, and return the rows of metrics.jsonl that hold scores."""

    def run(condition_mask=False, **settings):
        config = DiTConfig(
            hidden_size=32,
            num_layers=1,
            num_attention_heads=2,
            adaln_lora_dim=8,
            max_frames=2,
            max_height=4,
            max_width=4,
            condition_mask=condition_mask,
        )
        model = DiffusionModel(config=config, tokenizer="dct")
        if condition_mask:
            from cosmos1.models.diffusion.objective_config import VideoConditioning

            model.objective.conditioning = VideoConditioning(min_frames=0, max_frames=1)
        data = LatentFolderDataModule(str(latents), num_workers=0, validation_fraction=0.5)
        callbacks = [EvaluateSamples(num_steps=2, **settings)]
        trainer = Trainer(max_steps=2, precision="fp32", val_check_interval=1, callbacks=callbacks)
        log = Logger(log_dir=str(tmp_path), version=f"run{condition_mask}")
        log.ckpt.save_last = False
        train(model, data, trainer, MegatronOptimizer(), log)
        rows = read_metrics(tmp_path / "default" / log.version / "metrics.jsonl")
        return [row for row in rows if "val_psnr" in row]

    return run


def test_scores_are_logged_every_n_validations(fit):
    (row,) = fit(every_n_validations=2)
    assert set(row) == {"step", "val_psnr", "val_ssim", "val_latent_l2"} and row["step"] == 2
    # An untrained network gives noise of the data's scale: far from the sample, in finite numbers.
    assert 0.5 < row["val_latent_l2"] < 3 and 0 < row["val_psnr"] < 30 and -1 <= row["val_ssim"] <= 1


def test_given_frames_come_closer(fit):
    without, _ = fit(condition_mask=True, num_given_latent_frames=0)
    given, _ = fit(condition_mask=True, num_given_latent_frames=1)
    # One of two latent frames is given exactly, so about half of the squared distance is gone.
    assert given["val_latent_l2"] / without["val_latent_l2"] == pytest.approx(math.sqrt(0.5), rel=0.15)


def test_settings_that_cannot_work_are_refused(fit):
    with pytest.raises(ConfigError, match="num_given_latent_frames=2; samples have 2 latent frames"):
        fit(num_given_latent_frames=2)
    with pytest.raises(ConfigError, match="num_samples=0"):
        fit(num_samples=0)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_held_out_samples_are_the_first_ones_each_once(latents, micro_batch_size):
    data = LatentFolderDataModule(
        str(latents), num_workers=0, validation_fraction=0.5, micro_batch_size=micro_batch_size
    )
    data.setup()
    _, held_out = data.split_names()
    for count in (1, 2, 3, 8):
        samples = list(held_out_samples(data, count))
        expected = [torch.load(latents / f"{name}.video_latent.pth") for name in held_out[:count]]
        assert len(samples) == len(expected)
        assert all(torch.equal(sample["video"][0], latent) for sample, latent in zip(samples, expected))


def test_a_perfect_sample_has_perfect_scores():
    callback = EvaluateSamples()
    tokenizer = DctTokenizer()
    callback._decoder = SimpleNamespace(decode=lambda latent, num_views: tensor_to_frames(tokenizer.decode(latent)))
    latent, other = torch.randn(2, 1, 16, 2, 4, 4).unbind(0)
    assert callback._compare(latent, latent) == [{"val_psnr": math.inf, "val_ssim": 1.0, "val_latent_l2": 0.0}]
    frames = [callback._decoder.decode(x, 1) for x in (other, latent)]
    assert callback._compare(other, latent)[0]["val_psnr"] == psnr(*frames).value < 30
