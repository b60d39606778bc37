# SPDX-License-Identifier: Apache-2.0
"""Small networks with control signals: their settings, inputs, and the weights of the golden vectors."""

import numpy as np
import torch

from cosmos1.checkpoint.layouts import from_native, to_native
from cosmos1.conditioning.settings import (
    ActionConditioning,
    CameraConditioning,
    TrajectoryConditioning,
    ViewConditioning,
)
from cosmos1.models.diffusion.config import DiTConfig
from tests.models.reference import build_network, condition_mask, golden_inputs, stream, tensor, tiny_config

PREDICT1 = ActionConditioning(hidden_width="4D", gelu="tanh", use_d_branch=False)
FIXED = {"learnable_positions": False, "sinusoidal_positions": True}
VIEWS = ViewConditioning(num_views=3, view_dim=3)

CONFIGS = {
    "action": tiny_config(True, action=ActionConditioning()),
    "action_chunk": tiny_config(True, action=ActionConditioning(action_dim=5, num_actions=3)),
    "action_predict1": tiny_config(True, action=PREDICT1),
    "camera": tiny_config(True, camera=CameraConditioning()),
    "views": tiny_config(views=VIEWS),
    "views_fixed": tiny_config(views=VIEWS, **FIXED),
    "views_shared_text": tiny_config(True, views=ViewConditioning(num_views=3, view_dim=3, shared_text=True)),
    "views_trajectory": tiny_config(True, views=VIEWS, trajectory=TrajectoryConditioning(12)),
    "all": tiny_config(
        True,
        action=ActionConditioning(),
        camera=CameraConditioning(),
        views=VIEWS,
        trajectory=TrajectoryConditioning(12),
    ),
}

# Our names of the layers that control signals add, and the official ones.
OFFICIAL = {
    "views.table.weight": "view_embeddings.weight",
    "views.repeat_frame.weight": "repeat_frame_embedding.weight",
    "views.repeat_frame.bias": "repeat_frame_embedding.bias",
    "trajectory.linear.weight": "traj_embeddings.weight",
    "trajectory.linear.bias": "traj_embeddings.bias",
    **{
        f"action.{ours}.linear_{n}.{kind}": f"action_embedder_{theirs}.fc{n}.{kind}"
        for ours, theirs in (("to_embedding", "B_D"), ("to_modulation", "B_3D"))
        for n in (1, 2)
        for kind in ("weight", "bias")
    },
}
# Parameters of the inert branch of predict1 that take a place in its sorted list of keys.
PREDICT1_UNUSED = [f"action_embedder_B_D.fc{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]


def golden_value(name: str, shape, index: int) -> torch.Tensor:
    """The fill rule of one parameter: ``index`` is its stream, ``name`` its official name."""
    u = stream(index, tuple(shape))
    if name == "affline_norm.weight" or name.endswith((".to_q.1.weight", ".to_k.1.weight")):
        return tensor(1 + 0.2 * u)
    if name.endswith("bias") or ".pos_emb_" in name or name == "view_embeddings.weight":
        return tensor(2 * u)
    return tensor(2 * np.sqrt(3 / shape[-1]) * u)


def load_golden_weights(network, config: DiTConfig, nemo_action: bool = False) -> None:
    """Fill a whole network; the parameters of NeMo's action layers have streams of their own."""
    own = {name: p.detach() for name, p in network.named_parameters() if not name.startswith("logvar.")}
    base = {name: p for name, p in own.items() if name not in OFFICIAL}
    shapes = {name: p.shape for name, p in from_native(base, "official").items()}
    new = {} if nemo_action else {OFFICIAL[name]: own[name].shape for name in own if name in OFFICIAL}
    unused = PREDICT1_UNUSED if config.action is not None and not config.action.use_d_branch else []
    order = sorted([*shapes, *new, *unused])
    values = {name: golden_value(name, (shapes | new)[name], order.index(name)) for name in [*shapes, *new]}
    if nemo_action:
        names = [name for name in OFFICIAL if name.startswith("action.")]
        values |= {OFFICIAL[name]: golden_value(name, own[name].shape, 2000 + i) for i, name in enumerate(names)}
    native = to_native({name: values[name] for name in shapes})
    for name, parameter in own.items():
        parameter.copy_(values[OFFICIAL[name]] if name in OFFICIAL else native[name])


def golden_variant_inputs(config: DiTConfig, num_views: int = 3) -> dict:
    """Inputs of the golden vectors, and of the same kind for the other control signals."""
    inputs, frames, controls = golden_inputs(), 3, {}
    if config.views is not None:
        frames = 2 * num_views
        inputs["x_BCTHW"] = tensor(2 * stream(902, (1, 16, frames, 8, 12)))
        if not config.views.shared_text:
            inputs["text_BME"] = tensor(2 * stream(903, (1, 8 * num_views, 1024)))
        controls["view_indices"] = torch.arange(num_views)[None]
        # Given before scaling: 0, 1, 1 after it.
        controls["frame_repeat"] = torch.tensor([[0.0] + [10.0] * (num_views - 1)])
    if config.trajectory is not None:
        controls["trajectory"] = tensor(2 * stream(904, (1, 192)))
    if config.action is not None:
        shape = (1, config.action.num_actions, config.action.action_dim)
        controls["action"] = tensor(2 * stream(905, shape))
    if config.camera is not None:
        controls["plucker_embeddings"] = tensor(2 * stream(906, (1, frames, 6, 8, 12)))
    if config.condition_mask:
        mask = condition_mask(frames)
        if config.views is not None:
            mask[:, :, ::2] = 1
        inputs["condition_mask_B1THW"] = mask
    return inputs | {"controls": controls}


def golden_network(config: DiTConfig, nemo_action: bool = False):
    network = build_network(config)
    load_golden_weights(network, config, nemo_action)
    return network
