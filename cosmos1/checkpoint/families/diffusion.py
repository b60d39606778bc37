# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer: what its weights look like, and which network a set of weights belongs to."""

import itertools

from cosmos1.checkpoint.families import diffusion_names
from cosmos1.checkpoint.families.family import Family, Shapes
from cosmos1.checkpoint.families.inert_action import inert_names, inert_zeros
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.conditioning.settings import (
    PLUCKER_CHANNELS,
    TRAJECTORY_VALUES,
    ActionConditioning,
    CameraConditioning,
    TrajectoryConditioning,
    ViewConditioning,
)
from cosmos1.errors import CheckpointError
from cosmos1.models.diffusion.config import SIZES, DiTConfig, dit_config

NUM_LOGVAR_FEATURES = 128
# hidden_width, gelu and use_d_branch of the action control of the two.
_NEMO_ACTION = ("D", "erf", True)
_PREDICT1_ACTION = ("4D", "tanh", False)


def expected_shapes(config: DiTConfig) -> Shapes:
    """Shape of every tensor of the network, by our names."""
    width, rank, patch = config.hidden_size, config.adaln_lora_dim, config.patch_spatial**2
    shapes = {
        "x_embedder.weight": (width, config.patch_input_channels * patch),
        "t_embedder.linear_1.weight": (width, width),
        "t_embedder.linear_2.weight": (3 * width, width),
        "t_embedder.affline_norm": (width,),
        "final_layer.linear.weight": (config.latent_channels * patch, width),
        "final_layer.adaln.linear_1.weight": (rank, width),
        "final_layer.adaln.linear_2.weight": (2 * width, rank),
        "logvar.freqs": (NUM_LOGVAR_FEATURES,),
        "logvar.phases": (NUM_LOGVAR_FEATURES,),
        "logvar.linear.weight": (1, NUM_LOGVAR_FEATURES),
    }
    if config.learnable_positions:
        sizes = {"t": config.max_frames, "h": config.max_height, "w": config.max_width}
        for axis, size in sizes.items():
            rows = size if axis == "t" else size // config.patch_spatial
            shapes[f"extra_pos_embedder.pos_emb_{axis}"] = (rows, width)
    shapes |= _control_shapes(config)
    for n in range(config.num_layers):
        shapes.update({f"decoder.layers.{n}.{name}": shape for name, shape in _block_shapes(config).items()})
    return shapes


def _control_shapes(config: DiTConfig) -> Shapes:
    layers, width = {}, config.hidden_size
    if action := config.action:
        inputs, hidden = action.num_actions * action.action_dim, width * (4 if action.hidden_width == "4D" else 1)
        if action.use_d_branch:
            layers |= {
                "action.to_embedding.linear_1": (hidden, inputs),
                "action.to_embedding.linear_2": (width, hidden),
            }
        layers["action.to_modulation.linear_1"] = (4 * width, inputs)
        layers["action.to_modulation.linear_2"] = (3 * width, 4 * width)
    shapes = {}
    if config.views:
        shapes["views.table.weight"] = (config.views.num_views, config.views.view_dim)
        if config.views.repeat_frame:
            layers["views.repeat_frame"] = (config.views.view_dim, 1)
    if config.trajectory:
        layers["trajectory.linear"] = (config.trajectory.trajectory_dim, TRAJECTORY_VALUES)
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _block_shapes(config: DiTConfig) -> Shapes:
    width, text, rank = config.hidden_size, config.text_embedding_dim, config.adaln_lora_dim
    shapes = {
        "full_self_attention.linear_qkv.weight": (3 * width, width),
        "cross_attention.linear_q.weight": (width, width),
        "cross_attention.linear_kv.weight": (2 * width, text),
        "mlp.linear_fc1.weight": (config.mlp_ratio * width, width),
        "mlp.linear_fc2.weight": (width, config.mlp_ratio * width),
    }
    for attention in ("full_self_attention", "cross_attention"):
        shapes[f"{attention}.linear_proj.weight"] = (width, width)
        shapes[f"{attention}.q_layernorm.weight"] = shapes[f"{attention}.k_layernorm.weight"] = (config.head_dim,)
    for branch in ("adaln_self_attention", "adaln_cross_attention", "adaln_mlp"):
        shapes[f"{branch}.linear_1.weight"] = (rank, width)
        shapes[f"{branch}.linear_2.weight"] = (3 * width, rank)
    return shapes


def infer_config(tensors: dict[str, LazyTensor], num_layers: int) -> DiTConfig:
    """The network whose weights these are, from their shapes.

    The scale of the rotary positions leaves no trace in the weights: it is that of the published size of the same width
    and depth, and otherwise the 7B's.

    Raises:
        CheckpointError: a tensor that decides is missing, or the input channels are those of no known network.
    """
    try:
        width = tensors["t_embedder.linear_1.weight"].shape[0]
        block = {name.removeprefix("decoder.layers.0."): tensor.shape for name, tensor in tensors.items()}
        config = DiTConfig(
            hidden_size=width,
            num_layers=num_layers,
            num_attention_heads=width // block["full_self_attention.q_layernorm.weight"][0],
            mlp_ratio=block["mlp.linear_fc1.weight"][0] // width,
            adaln_lora_dim=block["adaln_mlp.linear_1.weight"][0],
            text_embedding_dim=block["cross_attention.linear_kv.weight"][1],
        )
        config.latent_channels = tensors["final_layer.linear.weight"].shape[0] // config.patch_spatial**2
        _infer_action(config, tensors)
        _infer_channels(config, tensors)
    except KeyError as error:
        raise CheckpointError(f"the weights lack {error}, without which their network is unknown") from error
    _infer_positions(config, tensors)
    for size in SIZES.values():
        known = DiTConfig(**size)
        if (known.hidden_size, known.num_layers) == (config.hidden_size, config.num_layers):
            set_rope_scale(config, rope_scale(known))
    return config


def _infer_action(config: DiTConfig, tensors: dict[str, LazyTensor]) -> None:
    """Only the product of the number of actions and their width shows; Bridge's width is assumed where it divides it."""
    first = tensors.get("action.to_modulation.linear_1.weight")
    if first is None:
        return
    inputs, known = first.shape[1], ActionConditioning().action_dim
    width = known if inputs % known == 0 else inputs
    branch = tensors.get("action.to_embedding.linear_1.weight")
    hidden_width, gelu, use_d_branch = _PREDICT1_ACTION if branch is None else _NEMO_ACTION
    if branch is not None:
        hidden_width = "D" if branch.shape[0] == config.hidden_size else "4D"
    config.action = ActionConditioning(width, inputs // width, hidden_width, gelu, use_d_branch)


def _infer_channels(config: DiTConfig, tensors: dict[str, LazyTensor]) -> None:
    """Condition mask and control signals, from the number of channels that enter a patch and the layers that make them."""
    if (table := tensors.get("views.table.weight")) is not None:
        config.views = ViewConditioning(*table.shape, repeat_frame="views.repeat_frame.weight" in tensors)
    if (trajectory := tensors.get("trajectory.linear.weight")) is not None:
        config.trajectory = TrajectoryConditioning(trajectory.shape[0])
    found, patch = tensors["x_embedder.weight"].shape[1], config.patch_spatial**2
    for config.condition_mask, config.camera in itertools.product((False, True), (None, CameraConditioning())):
        if found == config.patch_input_channels * patch:
            return
    config.condition_mask, config.camera = False, None
    known = config.patch_input_channels
    raise CheckpointError(
        f"x_embedder.weight has shape {list(tensors['x_embedder.weight'].shape)}: {found / patch:g} input channels, but "
        f"Text2World has {known} here, Video2World {known + 1}, and camera control {PLUCKER_CHANNELS} more"
    )


def _infer_positions(config: DiTConfig, tensors: dict[str, LazyTensor]) -> None:
    lengths = {axis: tensors.get(f"extra_pos_embedder.pos_emb_{axis}") for axis in "thw"}
    config.learnable_positions = any(tensor is not None for tensor in lengths.values())
    config.sinusoidal_positions = config.views is not None and not config.learnable_positions
    for axis, field, step in (("t", "max_frames", 1), ("h", "max_height", 2), ("w", "max_width", 2)):
        if lengths[axis] is not None:
            setattr(config, field, lengths[axis].shape[0] * step)


def rope_scale(config: DiTConfig) -> tuple[float, float, float]:
    """Extrapolation ratios of the rotary positions over time, rows and columns."""
    return tuple(getattr(config, f"rope_{axis}_extrapolation_ratio") for axis in "thw")


def set_rope_scale(config: DiTConfig, ratios) -> None:
    for axis, ratio in zip("thw", ratios):
        setattr(config, f"rope_{axis}_extrapolation_ratio", float(ratio))


def describe(config: DiTConfig) -> str:
    kind = "Video2World" if config.condition_mask else "Text2World"
    signals = {"action": config.action, "camera": config.camera, "views": config.views, "trajectory": config.trajectory}
    controls = ", ".join(name for name, settings in signals.items() if settings is not None)
    task = f"{kind} DiT with {controls}" if controls else f"{kind} DiT"
    positions = (
        "sinusoidal" if config.sinusoidal_positions else "learnable" if config.learnable_positions else "no added"
    )
    ratios = ", ".join(f"{ratio:g}" for ratio in rope_scale(config))
    return (
        f"{task}, width {config.hidden_size}, {config.num_layers} blocks, {config.num_attention_heads} heads, rotary "
        f"scale ({ratios}), {positions} positions"
    )


def diffusers_config(config: DiTConfig) -> dict:
    """``config.json`` of diffusers' CosmosTransformer3DModel; the padding mask is a channel it adds itself."""
    return {
        "_class_name": "CosmosTransformer3DModel",
        "in_channels": config.latent_channels + int(config.condition_mask),
        "out_channels": config.latent_channels,
        "num_attention_heads": config.num_attention_heads,
        "attention_head_dim": config.head_dim,
        "num_layers": config.num_layers,
        "mlp_ratio": float(config.mlp_ratio),
        "text_embed_dim": config.text_embedding_dim,
        "adaln_lora_dim": config.adaln_lora_dim,
        "max_size": [config.max_frames, config.max_height, config.max_width],
        "patch_size": [1, config.patch_spatial, config.patch_spatial],
        "rope_scale": list(rope_scale(config)),
        "concat_padding_mask": True,
        "extra_pos_embed_type": "learnable",
    }


def _build_task(config: DiTConfig):
    from cosmos1.models.diffusion.model import DiffusionModel

    return DiffusionModel(config=config)


def _refusal(config: DiTConfig, format: str) -> str | None:
    action = config.action
    if format == "diffusers" and (config.controls or not config.learnable_positions):
        return "which has no class in diffusers; use --to pt"
    if action is None or format == "dist":
        return None
    wiring = (action.hidden_width, action.gelu, action.use_d_branch)
    if wiring == _NEMO_ACTION or (wiring == _PREDICT1_ACTION and format == "pt"):
        return None
    return (
        f"whose model.config.action (hidden_width, gelu, use_d_branch = {wiring}) the software that reads {format} does not "
        "know; use --to dist"
    )


DIFFUSION = Family(
    network="DiT",
    prefixes=diffusion_names.PREFIXES,
    rows=diffusion_names.rows,
    attention="full_self_attention",
    official_prefix="net.",
    # The uncertainty head serves one option of the training loss; released and exported files may lack it.
    optional=("logvar.",),
    config_class=DiTConfig,
    expected_shapes=expected_shapes,
    infer_config=infer_config,
    describe=describe,
    sizes=tuple(SIZES),
    config_of_size=dit_config,
    build_task=_build_task,
    refusal=_refusal,
    inert_names=inert_names,
    inert_zeros=inert_zeros,
)
