# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the diffusion weights in the official ``model.pt``, in diffusers, and in our own checkpoints.

One explicit table serves both directions. All tensors are whole (not split over ranks). Sources: cosmos-predict1,
``diffusion/networks/general_dit.py``; diffusers, ``scripts/convert_cosmos_to_diffusers.py``.
"""

import torch

from cosmos1.errors import CheckpointError

# Outside the blocks: official name (without "net."), our name, diffusers name.
_OUTSIDE = [
    ("x_embedder.proj.1.weight", "x_embedder.weight", "patch_embed.proj.weight"),
    ("extra_pos_embedder.pos_emb_t", "extra_pos_embedder.pos_emb_t", "learnable_pos_embed.pos_emb_t"),
    ("extra_pos_embedder.pos_emb_h", "extra_pos_embedder.pos_emb_h", "learnable_pos_embed.pos_emb_h"),
    ("extra_pos_embedder.pos_emb_w", "extra_pos_embedder.pos_emb_w", "learnable_pos_embed.pos_emb_w"),
    ("t_embedder.1.linear_1.weight", "t_embedder.linear_1.weight", "time_embed.t_embedder.linear_1.weight"),
    ("t_embedder.1.linear_2.weight", "t_embedder.linear_2.weight", "time_embed.t_embedder.linear_2.weight"),
    ("affline_norm.weight", "t_embedder.affline_norm", "time_embed.norm.weight"),
    ("final_layer.linear.weight", "final_layer.linear.weight", "proj_out.weight"),
    ("final_layer.adaLN_modulation.1.weight", "final_layer.adaln.linear_1.weight", "norm_out.linear_1.weight"),
    ("final_layer.adaLN_modulation.2.weight", "final_layer.adaln.linear_2.weight", "norm_out.linear_2.weight"),
]
# Inside block n, copied as they are: official under blocks.block{n}.blocks., ours under decoder.layers.{n}., diffusers
# under transformer_blocks.{n}.
_INSIDE = [
    ("0.block.attn.to_q.1.weight", "full_self_attention.q_layernorm.weight", "attn1.norm_q.weight"),
    ("0.block.attn.to_k.1.weight", "full_self_attention.k_layernorm.weight", "attn1.norm_k.weight"),
    ("0.block.attn.to_out.0.weight", "full_self_attention.linear_proj.weight", "attn1.to_out.0.weight"),
    ("1.block.attn.to_q.0.weight", "cross_attention.linear_q.weight", "attn2.to_q.weight"),
    ("1.block.attn.to_q.1.weight", "cross_attention.q_layernorm.weight", "attn2.norm_q.weight"),
    ("1.block.attn.to_k.1.weight", "cross_attention.k_layernorm.weight", "attn2.norm_k.weight"),
    ("1.block.attn.to_out.0.weight", "cross_attention.linear_proj.weight", "attn2.to_out.0.weight"),
    ("2.block.layer1.weight", "mlp.linear_fc1.weight", "ff.net.0.proj.weight"),
    ("2.block.layer2.weight", "mlp.linear_fc2.weight", "ff.net.2.weight"),
    ("0.adaLN_modulation.1.weight", "adaln_self_attention.linear_1.weight", "norm1.linear_1.weight"),
    ("0.adaLN_modulation.2.weight", "adaln_self_attention.linear_2.weight", "norm1.linear_2.weight"),
    ("1.adaLN_modulation.1.weight", "adaln_cross_attention.linear_1.weight", "norm2.linear_1.weight"),
    ("1.adaLN_modulation.2.weight", "adaln_cross_attention.linear_2.weight", "norm2.linear_2.weight"),
    ("2.adaLN_modulation.1.weight", "adaln_mlp.linear_1.weight", "norm3.linear_1.weight"),
    ("2.adaLN_modulation.2.weight", "adaln_mlp.linear_2.weight", "norm3.linear_2.weight"),
]
# Inside block n, several matrices interleaved head by head in our layout.
_FUSED = [
    (
        ("0.block.attn.to_q.0.weight", "0.block.attn.to_k.0.weight", "0.block.attn.to_v.0.weight"),
        "full_self_attention.linear_qkv.weight",
        ("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"),
    ),
    (
        ("1.block.attn.to_k.0.weight", "1.block.attn.to_v.0.weight"),
        "cross_attention.linear_kv.weight",
        ("attn2.to_k.weight", "attn2.to_v.weight"),
    ),
]
_PREFIXES = {"official": "blocks.block{n}.blocks.", "diffusers": "transformer_blocks.{n}."}
_COLUMN = {"official": 0, "diffusers": 2}


def _table(layout: str, num_layers: int):
    """Rows ``(their names, our name)``; more than one name where ours is fused."""
    column = _COLUMN[layout]
    for row in _OUTSIDE:
        yield (row[column],), row[1]
    for n in range(num_layers):
        theirs, ours = _PREFIXES[layout].format(n=n), f"decoder.layers.{n}."
        for row in _INSIDE:
            yield (theirs + row[column],), ours + row[1]
        for row in _FUSED:
            yield tuple(theirs + name for name in row[column]), ours + row[1]


def to_native(state: dict[str, torch.Tensor], layout: str, num_layers: int, head_dim: int) -> dict[str, torch.Tensor]:
    """Weights of ``layout`` ("official" without the ``net.`` prefix, or "diffusers") under our names.

    Raises:
        CheckpointError: keys that the network has and the file lacks, or the other way round.
    """
    rows = list(_table(layout, num_layers))
    expected = {name for names, _ in rows for name in names}
    optional = {name for name in expected if "pos_emb" in name}
    missing, unexpected = expected - optional - set(state), set(state) - expected
    if missing or unexpected:
        raise CheckpointError(
            f"{layout} weights do not fit a DiT of {num_layers} layers: {len(missing)} missing (first: "
            f"{sorted(missing)[:3]}), {len(unexpected)} unexpected (first: {sorted(unexpected)[:3]})"
        )
    return {ours: _fuse([state[name] for name in names], head_dim) for names, ours in rows if names[0] in state}


def from_native(state: dict[str, torch.Tensor], layout: str, num_layers: int, head_dim: int) -> dict[str, torch.Tensor]:
    """The inverse of :func:`to_native`, bit for bit."""
    result = {}
    for names, ours in _table(layout, num_layers):
        if ours in state:
            result.update(zip(names, _split(state[ours], len(names), head_dim)))
    return result


def _fuse(tensors: list[torch.Tensor], head_dim: int) -> torch.Tensor:
    """``k`` matrices ``[heads * d, in]`` to ``[heads * k * d, in]``, head by head."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.stack([tensor.unflatten(0, (-1, head_dim)) for tensor in tensors], dim=1).flatten(0, 2)


def _split(tensor: torch.Tensor, count: int, head_dim: int) -> list[torch.Tensor]:
    if count == 1:
        return [tensor]
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (-1, count, head_dim)).unbind(1)]
