# SPDX-License-Identifier: Apache-2.0
"""The autoregressive video GPT: what its weights look like, and which network a set of weights belongs to."""

from cosmos1.checkpoint.families import autoregressive_names
from cosmos1.checkpoint.families.family import Family, Shapes
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.conditioning.settings import NUM_POINTS, PLUCKER_CHANNELS, POINT_VALUES
from cosmos1.conditioning.token_settings import ActionRows, CameraRays, TrajectoryRows, ViewTokens
from cosmos1.errors import CheckpointError, ConfigError
from cosmos1.models.autoregressive.config import SIZES, GPTConfig, gpt_config


def expected_shapes(config: GPTConfig) -> Shapes:
    """Shape of every tensor of the network, by our names."""
    shapes = {"embedding.word_embeddings.weight": (config.embedding_rows, config.hidden_size)}
    for n in range(config.num_layers):
        shapes.update({f"decoder.layers.{n}.{name}": shape for name, shape in _layer_shapes(config).items()})
    shapes |= _control_shapes(config)
    shapes["decoder.final_layernorm.weight"] = (config.hidden_size,)
    shapes["output_layer.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def _control_shapes(config: GPTConfig) -> Shapes:
    shapes, rows = {}, {}
    if action := config.action:
        rows["action"] = (action.num_actions, action.action_dim, action.hidden_size)
    if config.trajectory:
        rows["trajectory"] = (NUM_POINTS, POINT_VALUES, config.trajectory.hidden_size)
    for name, (num_rows, num_values, hidden) in rows.items():
        shapes |= {f"{name}.linear_1.weight": (hidden, num_values), f"{name}.linear_1.bias": (hidden,)}
        shapes[f"{name}.linear_2.weight"] = (config.text_embedding_dim, hidden)
        shapes[f"{name}.linear_2.bias"] = (config.text_embedding_dim,)
        if num_rows > 1:
            shapes[f"{name}.index.weight"] = (num_rows, config.text_embedding_dim)
    if config.camera:
        shapes["camera.weight"] = (config.hidden_size, config.camera.num_channels)
    if config.views:
        shapes["views.weight"] = (config.views.num_views, config.hidden_size)
    return shapes


def _layer_shapes(config: GPTConfig) -> Shapes:
    width, ffn, head = config.hidden_size, config.ffn_hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_query_groups * head
    shapes = {
        "input_layernorm.weight": (width,),
        "self_attention.linear_qkv.weight": (queries + 2 * keys, width),
        "self_attention.q_layernorm.weight": (head,),
        "self_attention.k_layernorm.weight": (head,),
        "self_attention.linear_proj.weight": (width, queries),
    }
    if config.video2world:
        shapes |= {
            "pre_cross_attn_layernorm.weight": (width,),
            "cross_attention.linear_q.weight": (queries, width),
            "cross_attention.linear_kv.weight": (2 * keys, config.text_embedding_dim),
            "cross_attention.q_layernorm.weight": (head,),
            "cross_attention.k_layernorm.weight": (head,),
            "cross_attention.linear_proj.weight": (width, queries),
        }
    return shapes | {
        "pre_mlp_layernorm.weight": (width,),
        "mlp.linear_fc1.weight": (2 * ffn, width),
        "mlp.linear_fc2.weight": (width, ffn),
    }


def infer_config(tensors: dict[str, LazyTensor], num_layers: int) -> GPTConfig:
    """See :func:`cosmos1.checkpoint.networks.infer_config`. Token grid and YaRN leave no trace in the weights."""
    try:
        first = {name.removeprefix("decoder.layers.0."): tensor.shape for name, tensor in tensors.items()}
        rows, width = tensors["embedding.word_embeddings.weight"].shape
        vocab_size, head = tensors["output_layer.weight"].shape[0], first["self_attention.q_layernorm.weight"][0]
        num_heads = first["self_attention.linear_proj.weight"][1] // head
        known = [size for size in SIZES.values() if _same_depth_and_width(GPTConfig(**size), num_layers, width)]
        config = GPTConfig(**(known[0] if known else {}))
        config.hidden_size, config.num_layers, config.head_dim = width, num_layers, head
        config.num_attention_heads = num_heads
        config.num_query_groups = (first["self_attention.linear_qkv.weight"][0] // head - num_heads) // 2
        config.ffn_hidden_size, config.vocab_size = first["mlp.linear_fc2.weight"][1], vocab_size
    except KeyError as error:
        raise CheckpointError(f"the weights lack {error}, without which their network is unknown") from error
    text = first.get("cross_attention.linear_kv.weight")
    config.video2world = text is not None
    if config.video2world:
        config.text_embedding_dim, config.num_special_tokens = text[1], rows - vocab_size
    _infer_controls(config, {name: tensor.shape for name, tensor in tensors.items()})
    try:
        config.validate()
    except ConfigError as error:
        raise CheckpointError(f"the weights are those of no GPT: {error}") from error
    return config


def _infer_controls(config: GPTConfig, shapes: Shapes) -> None:
    """Whether views share a text leaves no trace in the weights."""
    if "action.linear_1.weight" in shapes:
        hidden_size, action_dim = shapes["action.linear_1.weight"]
        num_actions = shapes.get("action.index.weight", (1,))[0]
        config.action = ActionRows(action_dim, num_actions, hidden_size)
    if "trajectory.linear_1.weight" in shapes:
        config.trajectory = TrajectoryRows(shapes["trajectory.linear_1.weight"][0])
    if "camera.weight" in shapes:
        config.camera = CameraRays(shapes["camera.weight"][1] // PLUCKER_CHANNELS)
    if "views.weight" in shapes:
        config.views = ViewTokens(shapes["views.weight"][0])


def _same_depth_and_width(config: GPTConfig, num_layers: int, width: int) -> bool:
    return (config.num_layers, config.hidden_size) == (num_layers, width)


def describe(config: GPTConfig) -> str:
    kind = "Video2World" if config.video2world else "base"
    grid = " x ".join(map(str, config.latent_shape))
    yarn = f"YaRN {config.yarn_scale:g}" if config.yarn_scale else "no YaRN"
    signals = ", ".join(name for name in ("action", "camera", "views", "trajectory") if getattr(config, name))
    kind += f" with {signals}" if signals else ""
    return (
        f"{kind} GPT, width {config.hidden_size}, {config.num_layers} layers, {config.num_attention_heads} heads in "
        f"{config.num_query_groups} groups, {config.embedding_rows} token embeddings, token grid {grid}, {yarn}"
    )


def _config_of_size(size: str, video2world: bool) -> GPTConfig:
    return gpt_config(f"{size}_video2world" if video2world and f"{size}_video2world" in SIZES else size)


def _build_task(config: GPTConfig):
    from cosmos1.models.autoregressive.model import AutoregressiveModel

    return AutoregressiveModel(config=config)


def _refusal(config: GPTConfig, format: str) -> str | None:
    if format == "diffusers":
        return "which has no class in diffusers; use --to pt"
    several_actions = config.action is not None and config.action.num_actions > 1
    if format == "nemo" and (config.camera or config.views or config.trajectory or several_actions):
        return "whose control signals NeMo does not know; use --to dist or --to pt"
    return None


AUTOREGRESSIVE = Family(
    network="GPT",
    prefixes=autoregressive_names.PREFIXES,
    rows=autoregressive_names.rows,
    attention="self_attention",
    official_prefix="model.",
    optional=(),
    config_class=GPTConfig,
    expected_shapes=expected_shapes,
    infer_config=infer_config,
    describe=describe,
    sizes=("4b", "12b", "5b", "13b", "tiny"),
    config_of_size=_config_of_size,
    build_task=_build_task,
    refusal=_refusal,
)
