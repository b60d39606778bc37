# SPDX-License-Identifier: Apache-2.0
"""Small autoregressive networks with the deterministic weights of the golden values, and a plain reference in float64.

The reference follows the text of the model description (weights under their official names, one matrix per projection),
not the library: it has its own positions, attention and norms.
"""

import math

import torch
import torch.nn.functional as F

from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy

NUM_TEXT_TOKENS = 7


def miniature(video2world: bool = False, yarn: bool = False, **changes) -> GPTConfig:
    """The network of the golden values: width 100, 4 query heads and 2 groups of width 32, 2 layers, 64 codes."""
    sizes = {
        "hidden_size": 100,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "head_dim": 32,
        "ffn_hidden_size": 112,
        "vocab_size": 64,
        "num_special_tokens": 8,
        "text_embedding_dim": 20,
        "latent_shape": [2, 3, 4],
        "pad_to_multiple_of": 8,
        "yarn_scale": 2.0 if yarn else None,
    }
    return GPTConfig(video2world=video2world, **{**sizes, **changes})


def official_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    width, kv = config.num_attention_heads * config.head_dim, config.num_query_groups * config.head_dim
    D, ffn = config.hidden_size, config.ffn_hidden_size
    shapes = {"tok_embeddings.weight": (config.embedding_rows, D), "norm.weight": (D,)}
    shapes["output.weight"] = (config.vocab_size, D)
    for n in range(config.num_layers):
        layer = {"attention_norm.weight": (D,), "ffn_norm.weight": (D,)}
        layer |= {"feed_forward.w1.weight": (ffn, D), "feed_forward.w3.weight": (ffn, D)}
        layer["feed_forward.w2.weight"] = (D, ffn)
        blocks = {"attention": D}
        if config.video2world:
            layer["cross_attention_norm.weight"] = (D,)
            blocks["cross_attention"] = config.text_embedding_dim
        for block, source in blocks.items():
            layer |= {f"{block}.wq.weight": (width, D), f"{block}.wo.weight": (D, width)}
            layer |= {f"{block}.wk.weight": (kv, source), f"{block}.wv.weight": (kv, source)}
            layer |= {f"{block}.q_norm.weight": (config.head_dim,), f"{block}.k_norm.weight": (config.head_dim,)}
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes


def golden_weights(config: GPTConfig) -> dict[str, torch.Tensor]:
    """Official names to values in float64: an integer hash of name and flat index."""
    weights = {}
    for name, shape in official_shapes(config).items():
        c = sum(map(ord, name)) % 97
        n = torch.arange(math.prod(shape), dtype=torch.int64)
        u = ((n + 1) * (2654435761 + 2 * c) % 2**32).double() / 2**31 - 1
        value = 1 + 0.1 * u if len(shape) == 1 else u if name == "tok_embeddings.weight" else 0.2 * u
        weights[name] = value.reshape(shape)
    return weights


def golden_inputs(config: GPTConfig) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Tokens ``[1, S]``, text ``[1, 7, E]`` (Video2World) and labels ``[1, S]`` that continue the rule of the tokens."""
    place = torch.arange(config.sequence_length)
    tokens = ((7 * place + 3) % 64)[None]
    labels = ((7 * (place + 1) + 3) % 64)[None]
    if not config.video2world:
        return tokens, None, labels
    tokens[0, 0] = config.begin_of_video
    text = torch.cos(0.11 * torch.arange(NUM_TEXT_TOKENS * config.text_embedding_dim, dtype=torch.float64))
    return tokens, text.reshape(1, NUM_TEXT_TOKENS, -1), labels


def to_megatron(official: dict[str, torch.Tensor], config: GPTConfig) -> dict[str, torch.Tensor]:
    """Official names to ours."""

    def by_group(*matrices: torch.Tensor) -> torch.Tensor:
        return torch.cat([m.unflatten(0, (config.num_query_groups, -1)) for m in matrices], dim=1).flatten(0, 1)

    own = {
        "embedding.word_embeddings.weight": official["tok_embeddings.weight"],
        "decoder.final_layernorm.weight": official["norm.weight"],
        "output_layer.weight": official["output.weight"],
    }
    for n in range(config.num_layers):
        w = {name.removeprefix(f"layers.{n}."): t for name, t in official.items() if name.startswith(f"layers.{n}.")}
        layer = {
            "input_layernorm.weight": w["attention_norm.weight"],
            "pre_mlp_layernorm.weight": w["ffn_norm.weight"],
            "self_attention.linear_qkv.weight": by_group(*(w[f"attention.w{x}.weight"] for x in "qkv")),
            "mlp.linear_fc1.weight": torch.cat([w["feed_forward.w1.weight"], w["feed_forward.w3.weight"]]),
            "mlp.linear_fc2.weight": w["feed_forward.w2.weight"],
        }
        names = {"attention": "self_attention"}
        if config.video2world:
            names["cross_attention"] = "cross_attention"
            layer["pre_cross_attn_layernorm.weight"] = w["cross_attention_norm.weight"]
            layer["cross_attention.linear_q.weight"] = w["cross_attention.wq.weight"]
            layer["cross_attention.linear_kv.weight"] = by_group(*(w[f"cross_attention.w{x}.weight"] for x in "kv"))
        for source, target in names.items():
            layer[f"{target}.linear_proj.weight"] = w[f"{source}.wo.weight"]
            layer[f"{target}.q_layernorm.weight"] = w[f"{source}.q_norm.weight"]
            layer[f"{target}.k_layernorm.weight"] = w[f"{source}.k_norm.weight"]
        own |= {f"decoder.layers.{n}.{name}": tensor for name, tensor in layer.items()}
    return own


def build_network(config: GPTConfig, strategy: MegatronStrategy | None = None):
    """A whole fp32 network on the CPU in a process group of its own (or of the ranks that were started)."""
    strategy = strategy or MegatronStrategy()
    process_groups.initialize(strategy)
    from cosmos1.models.autoregressive.model import AutoregressiveModel

    task = AutoregressiveModel(config=config)
    megatron = task.megatron_config(strategy, torch.float32, torch.device("cpu"))
    return task.build(megatron, True, True, None, seed=0)


@torch.no_grad()
def load(network, weights: dict[str, torch.Tensor]) -> None:
    """Set whole weights under our names, keeping this tensor-parallel rank's part."""
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    parameters = dict(network.named_parameters())
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        if not getattr(parameter, "tensor_model_parallel", False):
            parameter.copy_(weights[name])
            continue
        axis, matrices = parameter.partition_dim, weights[name].chunk(parameter.partition_stride)
        parameter.copy_(torch.cat([matrix.chunk(size, dim=axis)[rank] for matrix in matrices], dim=axis))


# ---- the reference ----


def reference_logits(config: GPTConfig, official: dict[str, torch.Tensor], tokens, text) -> torch.Tensor:
    """Logits ``[B, S, vocab_size]`` in float64, from the formulas."""
    x = official["tok_embeddings.weight"][tokens]
    length = tokens.shape[1]
    angles, table = _angles(config)[:length], _sinusoids(config)[:length]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    for n in range(config.num_layers):
        w = {name.removeprefix(f"layers.{n}."): t for name, t in official.items() if name.startswith(f"layers.{n}.")}
        if config.video2world:
            x = x + table
        y = _norm(x, w["attention_norm.weight"])
        x = x + _attention(config, w, "attention", y, y, angles, hidden)
        if config.video2world:
            y = _norm(x, w["cross_attention_norm.weight"])
            x = x + _attention(config, w, "cross_attention", y, text, None, None)
        y = _norm(x, w["ffn_norm.weight"])
        gate = F.silu(y @ w["feed_forward.w1.weight"].T)
        x = x + (gate * (y @ w["feed_forward.w3.weight"].T)) @ w["feed_forward.w2.weight"].T
    return _norm(x, official["norm.weight"]) @ official["output.weight"].T


def _norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def _attention(config, w, block, queries, source, angles, hidden):
    q, k, v = (
        (y @ w[f"{block}.w{name}.weight"].T).unflatten(-1, (-1, config.head_dim))
        for name, y in (("q", queries), ("k", source), ("v", source))
    )
    q, k = _norm(q, w[f"{block}.q_norm.weight"]), _norm(k, w[f"{block}.k_norm.weight"])
    if angles is not None:
        q, k = _rotate(q, angles), _rotate(k, angles)
    repeats = config.num_attention_heads // config.num_query_groups
    k, v = (y.repeat_interleave(repeats, dim=2) for y in (k, v))
    scores = torch.einsum("bshd,bthd->bhst", q, k) / config.head_dim**0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    out = torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v).flatten(2)
    return out @ w[f"{block}.wo.weight"].T


def _rotate(x, angles):
    a, b = x.chunk(2, dim=-1)
    doubled = torch.cat([angles, angles], dim=-1)[:, None]
    return x * doubled.cos() + torch.cat([-b, a], dim=-1) * doubled.sin()


def _grid_rows(config: GPTConfig, of_token) -> torch.Tensor:
    """One row per place of the sequence: zeros for the token that begins a video and for padding."""
    frames, rows, columns = config.latent_shape
    values = [of_token(t, h, w) for t in range(frames) for h in range(rows) for w in range(columns)]
    if config.video2world:
        zero = torch.zeros_like(values[0])
        values = [zero, *values] + [zero] * (config.sequence_length - len(values) - 1)
    return torch.stack(values)


def _angles(config: GPTConfig) -> torch.Tensor:
    spatial = config.head_dim // 6 * 2
    frequencies = []
    for width, original in ((config.head_dim - 2 * spatial, 3), (spatial, 40), (spatial, 40)):
        f = torch.tensor([config.rope_theta ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
        if config.yarn_scale:
            high, low = 2 * math.pi * 4 / original, 2 * math.pi / original
            m = ((f - low) / (high - low)).clamp(0, 1)
            f = f * ((1 - m) / config.yarn_scale + m)
        frequencies.append(f)
    return _grid_rows(config, lambda *place: torch.cat([p * f for p, f in zip(place, frequencies)]))


def _sinusoids(config: GPTConfig) -> torch.Tensor:
    spatial = config.hidden_size // 6 * 2
    widths = (config.hidden_size - 2 * spatial, spatial, spatial)

    def of_token(*place):
        parts = []
        for p, width in zip(place, widths):
            angle = p * 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
            parts += [angle.sin(), angle.cos()]
        return torch.cat(parts)

    return _grid_rows(config, of_token)
