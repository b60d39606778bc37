# SPDX-License-Identifier: Apache-2.0
"""Weights of the diffusion networks with control signals: names, sizes, and a base checkpoint as their beginning."""

import dataclasses

import fiddle as fdl
import pytest
import torch

from cosmos1.checkpoint.__main__ import main
from cosmos1.checkpoint.convert import ConvertOptions, convert
from cosmos1.checkpoint.formats import open_weights
from cosmos1.checkpoint.networks import expected_shapes
from cosmos1.conditioning.settings import (
    ActionConditioning,
    CameraConditioning,
    TrajectoryConditioning,
    ViewConditioning,
)
from cosmos1.errors import CheckpointError
from cosmos1.generation.generator import network_of_checkpoint
from cosmos1.models.diffusion.config import dit_config
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import RestoreConfig
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights
from recipes.diffusion import action_control, camera_control, instruction, multiview, tokenizer
from tests.checkpoint.conversion import assert_same, converted, native_values, save_official, small_config
from tests.models.reference import condition_mask, golden_inputs

PREDICT1_ACTION = ActionConditioning(hidden_width="4D", gelu="tanh", use_d_branch=False)
VIEWS = {"views": ViewConditioning(6, 6), "learnable_positions": False, "sinusoidal_positions": True}
VARIANTS = {
    "action": small_config(1.0, True, action=ActionConditioning()),
    "action_predict1": small_config(1.0, True, action=PREDICT1_ACTION),
    "action_chunk": small_config(1.0, True, action=ActionConditioning(action_dim=7, num_actions=3)),
    "camera": small_config(1.0, True, camera=CameraConditioning()),
    "views": small_config(1.0, False, **VIEWS),
    "views_image2world": small_config(1.0, True, **VIEWS),
    "views_learnable": small_config(1.0, False, views=ViewConditioning(3, 4, repeat_frame=False)),
    "trajectory": small_config(1.0, True, trajectory=TrajectoryConditioning(12), **VIEWS),
}
SOME_KEYS = {
    "action": ("net.action_embedder_B_D.fc1.weight", "module.action_mlp.fc1.weight", (64, 7)),
    "action_predict1": ("net.action_embedder_B_3D.fc2.bias", None, (192,)),
    "action_chunk": ("net.action_embedder_B_3D.fc1.weight", "module.action_mlp_3d.fc1.weight", (256, 21)),
    "camera": ("net.x_embedder.proj.1.weight", "module.x_embedder.proj.1.weight", (64, 96)),
    "views": ("net.view_embeddings.weight", "module.view_embeddings.weight", (6, 6)),
    "views_image2world": ("net.repeat_frame_embedding.bias", "module.repeat_frame_embedding.bias", (6,)),
    "views_learnable": ("net.view_embeddings.weight", "module.view_embeddings.weight", (3, 4)),
    "trajectory": ("net.traj_embeddings.weight", "module.traj_embeddings.weight", (12, 192)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_pt_through_dist_and_nemo_and_back(tmp_path, variant):
    from cosmos1.checkpoint.chunked import read_torch_dist

    config = VARIANTS[variant]
    weights = save_official(tmp_path / "model.pt", config)
    assert open_weights(tmp_path / "model.pt").config == config
    official, nemo, shape = SOME_KEYS[variant]
    assert weights[official].shape == shape
    folder = converted(tmp_path / "model.pt", tmp_path / "dist", "dist", config)
    assert open_weights(folder).config == config
    assert_same(torch.load(converted(folder, tmp_path / "dist.pt", "pt", config)), weights)
    if nemo is None:
        with pytest.raises(CheckpointError, match="reads nemo does not know; use --to dist"):
            convert(folder, tmp_path / "nemo", "nemo", ConvertOptions())
        return
    folder = converted(tmp_path / "dist", tmp_path / "nemo", "nemo", config)
    assert read_torch_dist(folder / "weights")[nemo].shape == shape
    assert_same(torch.load(converted(folder, tmp_path / "nemo.pt", "pt", config)), weights)


def test_the_inert_branch_of_predict1_is_left_out_and_comes_back_as_zeros(tmp_path, capsys):
    config = VARIANTS["action_predict1"]
    weights = save_official(tmp_path / "zeros.pt", config)
    inert = {name for name in weights if "action_embedder_B_D" in name}
    assert {name: tuple(weights[name].shape) for name in inert} == {
        "net.action_embedder_B_D.fc1.weight": (256, 7),
        "net.action_embedder_B_D.fc1.bias": (256,),
        "net.action_embedder_B_D.fc2.weight": (64, 256),
        "net.action_embedder_B_D.fc2.bias": (64,),
    }
    torch.save(weights | {name: torch.ones_like(weights[name]) for name in inert}, tmp_path / "model.pt")
    assert main(["convert", str(tmp_path / "model.pt"), str(tmp_path / "dist"), "--to", "dist"]) == 0
    assert "left out, since they have no effect" in capsys.readouterr().out
    assert_same(torch.load(converted(tmp_path / "dist", tmp_path / "back.pt", "pt", config)), weights)


def test_wiring_that_no_other_software_has(tmp_path):
    config = small_config(1.0, True, action=ActionConditioning(hidden_width="D", gelu="tanh"))
    source = tmp_path / "run/epoch=0-step=0"
    save_official(tmp_path / "model.pt", VARIANTS["action"])
    converted(tmp_path / "model.pt", tmp_path / "run", "dist", VARIANTS["action"])
    recipe = source / "context/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("gelu: erf", "gelu: tanh"))
    assert open_weights(source).config == config
    for target in ("pt", "nemo"):
        with pytest.raises(CheckpointError, match=f"the software that reads {target} does not know"):
            convert(source, tmp_path / "out", target, ConvertOptions())
    with pytest.raises(CheckpointError, match="no class in diffusers"):
        convert(source, tmp_path / "out", "diffusers", ConvertOptions())
    assert not (tmp_path / "out").exists()


def test_input_channels_of_no_network(tmp_path):
    weights = save_official(tmp_path / "model.pt", small_config(1.0, False))
    weights["net.x_embedder.proj.1.weight"] = torch.zeros(64, 19 * 4)
    torch.save(weights, tmp_path / "odd.pt")
    with pytest.raises(
        CheckpointError, match="19 input channels, but Text2World has 17 here, Video2World 18, and camera"
    ):
        open_weights(tmp_path / "odd.pt")


# ---- a base checkpoint as the beginning of a variant ----


def layers(*names: str) -> list[str]:
    return sorted(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


MODULATION = ("action.to_modulation.linear_1", "action.to_modulation.linear_2")
ACTION = layers("action.to_embedding.linear_1", "action.to_embedding.linear_2", *MODULATION)
VIEW = sorted(["views.table.weight", *layers("views.repeat_frame")])
PATH = layers("trajectory.linear")
# Factory, the layers that a base checkpoint lacks, and what the patch matrix grows by.
FACTORIES = [
    (action_control.cosmos_diffusion_7b_video2world_action_ctrl_finetune, ACTION, None),
    (action_control.video2world_action_bridge_2frames, layers(*MODULATION), None),
    (camera_control.cosmos_diffusion_7b_cameractrl_finetune, [], "camera"),
    (instruction.cosmos_diffusion_7b_video2world_instruction_finetune, [], None),
    (multiview.cosmos_multicamera_diffusion_7b_text2world_finetune, VIEW, "views"),
    (multiview.cosmos_multicamera_diffusion_7b_image2world_finetune, VIEW, "views"),
    (multiview.cosmos_multicamera_diffusion_7b_text2world_finetune_w_traj, PATH + VIEW, "views, trajectory"),
    (multiview.cosmos_multicamera_diffusion_7b_image2world_finetune_w_traj, PATH + VIEW, "views, trajectory"),
    (tokenizer.cosmos_diffusion_7b_tokenizer_finetune, ["final_layer.linear.weight", "x_embedder.weight"], None),
]


def load(config, path, seed: int = 5, **restore) -> tuple[ParallelModel, list[str]]:
    process_groups.initialize(MegatronStrategy())
    model = ParallelModel(DiffusionModel(config), MegatronStrategy(), "fp32", seed=seed, trainable=False)
    return model, load_weights(model, RestoreConfig(path=str(path), **restore))


@pytest.mark.parametrize("factory, new_layers, channels", FACTORIES, ids=[case[0].__name__ for case in FACTORIES])
def test_exactly_the_new_layers_of_a_recipe_are_missing(tmp_path, factory, new_layers, channels):
    """The recipe's network and list of what may be missing, at a small size."""
    recipe = factory()
    small = {"hidden_size": 64, "num_layers": 3, "num_attention_heads": 4, "adaln_lora_dim": 8}
    config = dataclasses.replace(fdl.build(recipe.model.config), **small, recompute_granularity=None)
    settings = fdl.build(recipe.resume.restore_config)
    restore = {"allow_missing": settings.allow_missing, "reinitialize": settings.reinitialize}
    base = small_config(1.0, config.condition_mask)
    save_official(tmp_path / "model.pt", base)
    converted(tmp_path / "model.pt", tmp_path / "dist", "dist", base)
    widened = [f"weights: x_embedder.weight starts with zeros in the columns of {channels}"] if channels else []
    for source in (tmp_path / "model.pt", tmp_path / "dist"):
        model, report = load(config, source, **restore)
        assert report[0].endswith(f"{len(new_layers)} missing and kept at their initial values, 0 unexpected")
        assert report[1:] == [f"weights: missing {name}" for name in new_layers] + widened
        before, after = native_values(source)["x_embedder.weight"].float(), model.networks[0].x_embedder.weight.detach()
        if "x_embedder.weight" in new_layers:
            assert not after.equal(before)
        else:
            assert_same({"x": after}, {"x": moved_by_meaning(before, config)})


@torch.no_grad()
def test_the_base_network_is_what_a_variant_begins_as(tmp_path):
    """Whatever the rays and actions are: the padding mask is found by its new place, and the new columns are zero."""
    save_official(tmp_path / "model.pt", small_config(1.0, True))
    inputs = golden_inputs() | {"condition_mask_B1THW": condition_mask()}
    expected = load(small_config(1.0, True), tmp_path / "model.pt")[0].networks[0](**inputs)
    config = small_config(1.0, True, camera=CameraConditioning(), action=ActionConditioning())
    controls = {"plucker_embeddings": torch.randn(1, 3, 6, 8, 12), "action": torch.randn(1, 1, 7)}
    model, _ = load(config, tmp_path / "model.pt", allow_missing=["x_embedder.", "action."])
    found = model.networks[0](**inputs, controls=controls)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_without_leave_nothing_may_be_missing_or_grow(tmp_path):
    save_official(tmp_path / "model.pt", small_config(1.0, True))
    config = small_config(1.0, True, camera=CameraConditioning())
    with pytest.raises(CheckpointError, match="is of a network without camera.*add x_embedder.weight to"):
        load(config, tmp_path / "model.pt")
    config = small_config(1.0, True, action=ActionConditioning())
    with pytest.raises(CheckpointError, match="8 weights missing"):
        load(config, tmp_path / "model.pt", allow_missing=["x_embedder."])


def test_generation_finds_the_network_with_its_control_signals(tmp_path):
    config = VARIANTS["trajectory"]
    save_official(tmp_path / "model.pt", config)
    converted(tmp_path / "model.pt", tmp_path / "dist", "dist", config)
    for source in ("model.pt", "dist"):
        assert network_of_checkpoint(tmp_path / source).config == config


def moved_by_meaning(base: torch.Tensor, config) -> torch.Tensor:
    """The patch matrix ``[D, Cp * 4]`` channel by channel: latent, mask of given frames, rays, padding, views, path."""
    given, rays = int(config.condition_mask), 6 if config.camera else 0
    wide = torch.zeros(len(base), config.patch_input_channels * 4)
    for channel in range(16 + given + 1):
        place = channel if channel < 16 + given else channel + rays
        for row in range(2):
            for column in range(2):
                wide[:, (place * 2 + row) * 2 + column] = base[:, (channel * 2 + row) * 2 + column]
    return wide


def test_a_network_of_another_task_is_refused_though_columns_may_grow(tmp_path):
    save_official(tmp_path / "model.pt", small_config(1.0, False))
    with pytest.raises(CheckpointError, match=r"x_embedder.weight has shape \[64, 68\], this network needs \[64, 96\]"):
        load(small_config(1.0, True, camera=CameraConditioning()), tmp_path / "model.pt", allow_missing=["x_embedder."])


@pytest.mark.parametrize(
    "size, controls, num_new",
    [
        ("7b", {"action": ActionConditioning(hidden_width="4D")}, 268_713_984),
        ("14b", {"action": ActionConditioning(hidden_width="4D")}, 419_778_560),
        ("7b", {"action": ActionConditioning()}, 218_284_032),
        ("14b", {"action": ActionConditioning()}, 341_012_480),
        ("7b", {"camera": CameraConditioning()}, 6 * 4 * 4096),
        ("14b", {"camera": CameraConditioning()}, 6 * 4 * 5120),
        ("7b", {"views": ViewConditioning()}, 6 * 4 * 4096 + 36 + 12),
        ("7b", {"views": ViewConditioning(), "trajectory": TrajectoryConditioning(12)}, 18 * 4 * 4096 + 48 + 12 * 193),
    ],
)
def test_full_size_networks_have_exactly_these_parameters(size, controls, num_new):
    """Counted on a network of the real modules, whose shapes are the ones that conversion expects."""
    base_counts = {"7b": 7_236_208_640, "14b": 14_267_169_792}
    config = dit_config(size, True)
    for name, settings in controls.items():
        setattr(config, name, settings)
    found = shapes_on_meta(config)
    assert found == expected_shapes(config)
    network = {name: torch.Size(shape).numel() for name, shape in found.items() if not name.startswith("logvar.")}
    assert sum(network.values()) == base_counts[size] + num_new


def shapes_on_meta(config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a whole network that takes no memory."""
    from megatron.core.process_groups_config import ProcessGroupCollection

    from cosmos1.models.diffusion.megatron_config import megatron_config
    from cosmos1.models.diffusion.network import DiT

    process_groups.initialize(MegatronStrategy())
    meta = torch.device("meta")
    with meta:
        megatron = megatron_config(config, MegatronStrategy(), torch.bfloat16, meta)
        network = DiT(megatron, ProcessGroupCollection.use_mpu_process_groups())
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if tensor is not None}
