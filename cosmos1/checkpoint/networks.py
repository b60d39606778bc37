# SPDX-License-Identifier: Apache-2.0
"""Which network a set of weights belongs to, and what it should hold."""

from cosmos1.checkpoint.layouts import count_layers
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.errors import CheckpointError
from cosmos1.models.diffusion.config import SIZES, DiTConfig

NUM_LOGVAR_FEATURES = 128
# The uncertainty head serves one option of the training loss; released and exported files may lack it.
ALWAYS_OPTIONAL = ("logvar.",)


def expected_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
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
    for n in range(config.num_layers):
        shapes.update({f"decoder.layers.{n}.{name}": shape for name, shape in _block_shapes(config).items()})
    return shapes


def _block_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
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


def differences(shapes: dict[str, tuple[int, ...]], config: DiTConfig) -> list[str]:
    """What is missing, unexpected, or of another shape, one line each; empty if the weights fit the network."""
    expected = expected_shapes(config)
    lines = [f"missing {name}" for name in expected if name not in shapes and not name.startswith(ALWAYS_OPTIONAL)]
    lines += [f"unexpected {name}" for name in shapes if name not in expected]
    for name, shape in expected.items():
        if name in shapes and tuple(shapes[name]) != shape:
            lines.append(f"{name} has shape {list(shapes[name])}, this network needs {list(shape)}")
    return lines


def infer_config(tensors: dict[str, LazyTensor]) -> DiTConfig:
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
            num_layers=count_layers(tensors, "native"),
            num_attention_heads=width // block["full_self_attention.q_layernorm.weight"][0],
            mlp_ratio=block["mlp.linear_fc1.weight"][0] // width,
            adaln_lora_dim=block["adaln_mlp.linear_1.weight"][0],
            text_embedding_dim=block["cross_attention.linear_kv.weight"][1],
        )
        config.latent_channels = tensors["final_layer.linear.weight"].shape[0] // config.patch_spatial**2
        extra = tensors["x_embedder.weight"].shape[1] / config.patch_spatial**2 - config.latent_channels - 1
    except KeyError as error:
        raise CheckpointError(f"the weights lack {error}, without which their network is unknown") from error
    if extra not in (0, 1):
        raise CheckpointError(
            f"x_embedder.weight has shape {list(tensors['x_embedder.weight'].shape)}: neither Text2World "
            f"({config.latent_channels + 1} input channels) nor Video2World ({config.latent_channels + 2})"
        )
    config.condition_mask = extra == 1
    _infer_positions(config, tensors)
    for size in SIZES.values():
        known = DiTConfig(**size)
        if (known.hidden_size, known.num_layers) == (config.hidden_size, config.num_layers):
            set_rope_scale(config, rope_scale(known))
    return config


def _infer_positions(config: DiTConfig, tensors: dict[str, LazyTensor]) -> None:
    lengths = {axis: tensors.get(f"extra_pos_embedder.pos_emb_{axis}") for axis in "thw"}
    config.learnable_positions = any(tensor is not None for tensor in lengths.values())
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
    ratios = ", ".join(f"{ratio:g}" for ratio in rope_scale(config))
    return (
        f"{kind} DiT, width {config.hidden_size}, {config.num_layers} blocks, {config.num_attention_heads} heads, rotary "
        f"scale ({ratios}), {'learnable' if config.learnable_positions else 'no learnable'} positions"
    )
