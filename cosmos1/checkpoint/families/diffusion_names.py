# SPDX-License-Identifier: Apache-2.0
"""Names of the diffusion weights in the official ``model.pt``, in diffusers, in NeMo, and in our own checkpoints.

Sources: cosmos-predict1, ``diffusion/networks/general_dit.py``; diffusers, ``scripts/convert_cosmos_to_diffusers.py``;
NeMo, ``collections/diffusion/models/dit/cosmos_layer_spec.py``.
"""

from collections.abc import Iterable

from cosmos1.checkpoint.families.family import Row

PREFIXES = {
    "official": "blocks.block{n}.blocks.",
    "diffusers": "transformer_blocks.{n}.",
    "nemo": "module.decoder.layers.{n}.",
    "native": "decoder.layers.{n}.",
}
# Outside the blocks: official name (without "net."), our name, diffusers name. NeMo: the official name after "module.".
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
    ("view_embeddings.weight", "views.table.weight", None),
    # The uncertainty head of the training loss; diffusers has no place for it.
    ("logvar.0.freqs", "logvar.freqs", None),
    ("logvar.0.phases", "logvar.phases", None),
    ("logvar.1.weight", "logvar.linear.weight", None),
]
# Layers of the control signals, which diffusers has no place for: official name (cosmos-predict1), our name, NeMo's name
# after "module.", and the part of the network that comes as a whole. Each has a weight and a bias.
_CONTROLS = [
    ("action_embedder_B_D.fc1", "action.to_embedding.linear_1", "action_mlp.fc1", "action embedding"),
    ("action_embedder_B_D.fc2", "action.to_embedding.linear_2", "action_mlp.fc2", "action embedding"),
    ("action_embedder_B_3D.fc1", "action.to_modulation.linear_1", "action_mlp_3d.fc1", "action modulation"),
    ("action_embedder_B_3D.fc2", "action.to_modulation.linear_2", "action_mlp_3d.fc2", "action modulation"),
    ("repeat_frame_embedding", "views.repeat_frame", "repeat_frame_embedding", "repeated frames"),
    ("traj_embeddings", "trajectory.linear", "traj_embeddings", "trajectory"),
]
# Inside block n, copied as they are: official under blocks.block{n}.blocks., ours under decoder.layers.{n}., diffusers
# under transformer_blocks.{n}. NeMo: our name, except for the modulation.
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
# Inside block n, several matrices interleaved head by head in our layout and in NeMo's.
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
# Inside block n, NeMo's modulation of all three sub-blocks at once: rows one above the other, or a block diagonal.
_MODULATION = ("adaln_self_attention", "adaln_cross_attention", "adaln_mlp")
_NEMO_FUSED = [
    ("adaLN.adaLN_modulation.1.weight", "linear_1.weight", "rows"),
    ("adaLN.adaLN_modulation.2.weight", "linear_2.weight", "diagonal"),
]
_COLUMN = {"official": 0, "diffusers": 2}


def rows(layout: str, num_layers: int) -> Iterable[Row]:
    """The name table of ``layout`` ("official" without ``net.``, "diffusers" or "nemo") for a number of layers."""
    column = _COLUMN.get(layout, 0)
    for row in _OUTSIDE:
        if row[column] is not None:
            yield Row(("module." + row[0] if layout == "nemo" else row[column],), (row[1],), part=_part(row[1]))
    if layout != "diffusers":
        yield from _control_rows(layout)
    for n in range(num_layers):
        theirs, ours = PREFIXES[layout].format(n=n), PREFIXES["native"].format(n=n)
        if layout == "nemo":
            yield from _nemo_rows(theirs, ours)
            continue
        for row in _INSIDE:
            yield Row((theirs + row[column],), (ours + row[1],))
        for row in _FUSED:
            yield Row(tuple(theirs + name for name in row[column]), (ours + row[1],))


def _part(ours: str) -> str | None:
    """Networks may have no learnable positions and one view; of the uncertainty head any tensor may be left out."""
    if ours.startswith("extra_pos_embedder."):
        return "positions"
    return ours if ours.startswith(("logvar.", "views.")) else None


def _control_rows(layout: str) -> Iterable[Row]:
    for official, ours, nemo, part in _CONTROLS:
        theirs = official if layout == "official" else f"module.{nemo}"
        for kind in ("weight", "bias"):
            yield Row((f"{theirs}.{kind}",), (f"{ours}.{kind}",), part=part)


def _nemo_rows(theirs: str, ours: str) -> Iterable[Row]:
    for row in (*_INSIDE, *_FUSED):
        if not row[1].startswith("adaln_"):
            yield Row((theirs + row[1],), (ours + row[1],))
    for name, part, grouping in _NEMO_FUSED:
        yield Row((theirs + name,), tuple(f"{ours}{branch}.{part}" for branch in _MODULATION), grouping)
