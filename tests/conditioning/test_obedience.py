# SPDX-License-Identifier: Apache-2.0
"""A trained network needs its control signal: with the signals of other samples it predicts worse."""

import pytest
import torch

from cosmos1.conditioning.settings import (
    ActionConditioning,
    CameraConditioning,
    TrajectoryConditioning,
    ViewConditioning,
)
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning
from tests.models.reference import build_network

CPU = torch.device("cpu")
SIGNALS = {
    "t5_text_embeddings": {},
    "action": {"action": ActionConditioning(action_dim=3)},
    "plucker_embeddings": {"camera": CameraConditioning()},
    "view_indices": {"views": ViewConditioning(num_views=4, view_dim=4)},
    "trajectory": {"trajectory": TrajectoryConditioning(8)},
}
NUM_STEPS, BATCH = 80, 16


def batch_of(step: int, num_views: int, in_text: bool) -> dict:
    """Latents that are bright or dark, frame by frame, as every control signal says (the text: with ``in_text``)."""
    generator = torch.Generator().manual_seed(step)
    views = torch.stack([torch.randperm(4, generator=generator)[:num_views] for _ in range(BATCH)])
    bright = (views >= 2).float() * 2 - 1
    frames_BT = bright.repeat_interleave(2, dim=1)
    told = bright[:, :1, None] * torch.linspace(-1, 1, 32) if in_text else 0.0
    return {
        "video": frames_BT[:, None, :, None, None].expand(-1, 16, -1, 4, 4).clone(),
        "t5_text_embeddings": torch.zeros(BATCH, 4 * num_views, 32) + told,
        "fps": torch.full((BATCH,), 24.0),
        "padding_mask": torch.zeros(BATCH, 1, 4, 4),
        "sample_position": torch.arange(BATCH) + step * BATCH,
        "action": bright[:, :1, None].expand(-1, 1, 3) * torch.rand(BATCH, 1, 3, generator=generator) * 0.1,
        "plucker_embeddings": frames_BT[:, :, None, None, None].expand(-1, -1, 6, 4, 4),
        "view_indices": views,
        "trajectory": bright[:, :1].expand(-1, 192) * 0.5,
    }


def losses(model, network, batch, training: bool) -> torch.Tensor:
    sample = model.prepare(batch, 0, CPU, training)
    return model.loss(network, sample, model.forward(network, sample))[0]


@pytest.mark.parametrize("signal", SIGNALS)
def test_signals_of_other_samples_make_the_loss_worse(signal):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 48,
        "num_layers": 2,
        "num_attention_heads": 4,
        "adaln_lora_dim": 16,
        "text_embedding_dim": 32,
    }
    # Much noise, and no given frames: what the latent is can only be known from the signal.
    objective = EDMObjective(p_mean=2.0, p_std=0.5, conditioning=VideoConditioning(min_frames=0, max_frames=0))
    model = DiffusionModel(DiTConfig(**sizes, **SIGNALS[signal]), objective)
    network = build_network(model.config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    num_views = 2 if signal == "view_indices" else 1
    in_text = signal == "t5_text_embeddings"
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        losses(model, network, batch_of(step, num_views, in_text), training=True).backward()
        optimizer.step()
    batch = batch_of(NUM_STEPS, num_views, in_text)
    with torch.no_grad():
        true = losses(model, network, batch, training=False)
        shuffled = losses(model, network, batch | {signal: batch[signal].roll(1, dims=0)}, training=False)
    assert true < 0.5 * shuffled, f"{true:.3f} with the true signals, {shuffled:.3f} with those of other samples"
