# SPDX-License-Identifier: Apache-2.0
"""Small autoregressive networks with control signals, and signals for them."""

import torch

from cosmos1.conditioning.token_settings import ActionRows, CameraRays, TrajectoryRows, ViewTokens
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.parallel.strategy import MegatronStrategy
from tests.models.gpt_reference import build_network, miniature

NUM_VIEWS = 3
ACTION = ActionRows(action_dim=3, num_actions=2, hidden_size=16)
CAMERA = CameraRays(frames_per_token=2)
VIEWS = ViewTokens(num_views=NUM_VIEWS)
TRAJECTORY = TrajectoryRows(hidden_size=16)
SIGNALS = {
    "action": {"action": ACTION},
    "camera": {"camera": CAMERA},
    "views": {"views": VIEWS},
    "view_texts": {"views": ViewTokens(num_views=NUM_VIEWS, shared_text=False)},
    "trajectory": {"views": VIEWS, "trajectory": TRAJECTORY},
    "all": {"views": ViewTokens(num_views=NUM_VIEWS, shared_text=False), "camera": CAMERA, "trajectory": TRAJECTORY},
}


def signals_for(config: GPTConfig, batch_size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Control signals by batch key, and the text."""

    def normal(*shape):
        return torch.randn(batch_size, *shape, generator=generator)

    signals = {}
    if config.action is not None:
        signals["action"] = normal(config.action.num_actions, config.action.action_dim)
    if config.camera is not None:
        signals["plucker_tokens"] = normal(config.num_video_tokens, config.camera.num_channels)
    if config.views is not None:
        orders = [torch.randperm(config.num_views, generator=generator) for _ in range(batch_size)]
        signals["view_indices"] = torch.stack(orders)
    if config.trajectory is not None:
        signals["trajectory"] = normal(192)
        signals["trajectory"][0] = 0  # the first sample has none
    if config.reads_text:
        texts = 1 if config.views is None or config.views.shared_text else config.num_views
        signals["t5_text_embeddings"] = normal(texts * 6, config.text_embedding_dim)
    return signals


def network_and_inputs(name: str, strategy: MegatronStrategy | None = None):
    """``(config, network whose new layers are no longer zero, tokens [2, S], text, controls)``."""
    config = miniature(video2world=True, **SIGNALS[name])
    network = build_network(config, strategy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if parameter_name.startswith(("camera.", "views.")):
                parameter.normal_(std=0.5, generator=generator)
            if "linear_proj" in parameter_name:
                parameter.mul_(20)  # attention must matter
    signals = signals_for(config, 2, generator)
    tokens = torch.randint(0, 64, (2, config.sequence_length), generator=generator)
    tokens[:, 0] = config.begin_of_video
    return config, network, tokens, signals.pop("t5_text_embeddings", None), signals
