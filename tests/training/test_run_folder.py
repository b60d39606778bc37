# SPDX-License-Identifier: Apache-2.0
"""Which runs a run folder lets go on."""

import dataclasses

import pytest
import yaml

from cosmos1.checkpoint.folders import folder_name
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import ConfigError
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import AutoResume, Logger, MegatronOptimizer, NewLayers, RestoreConfig
from cosmos1.training.lora import LoRA
from cosmos1.training.run_folder import choose_run_folder, to_plain

STOPPED = LoRA(rank=16, alpha=32.0, targets=["linear_qkv", "linear_proj"])


def go_on(log_dir, **changes):
    """The folder that a run with adapters takes where another one, ``STOPPED``, has a checkpoint."""
    return continue_with(log_dir, recipe(STOPPED), recipe(dataclasses.replace(STOPPED, **changes)))


def continue_with(log_dir, stopped: dict, recipe: dict):
    """The folder that a run takes where one of recipe ``stopped`` has a checkpoint."""
    process_groups.initialize(MegatronStrategy())
    write_record(log_dir, 2, yaml.safe_dump(stopped))
    log = Logger(log_dir=str(log_dir), version="run")
    return choose_run_folder(log, True, recipe)


def write_record(log_dir, step: int, text: str) -> None:
    context = log_dir / "default" / "run" / "checkpoints" / folder_name(0, step) / "context"
    context.mkdir(parents=True)
    (context / "checksums.json").write_text("{}")
    (context / "recipe.yaml").write_text(text)


def recipe(lora: LoRA | None, allow_missing=(), data=None) -> dict:
    resume = AutoResume(restore_config=RestoreConfig(allow_missing=list(allow_missing)))
    optim = MegatronOptimizer(new_layers=NewLayers(names=["camera."]))
    parts = {"model": DiffusionModel(), "data": data, "model_transform": lora, "optim": optim, "resume": resume}
    return to_plain(parts)


@pytest.mark.parametrize(
    "name, value, there, here",
    [("rank", 8, "16", "8"), ("alpha", 320.0, "32.0", "320.0")]
    + [("targets", ["linear_qkv"], "['linear_qkv', 'linear_proj']", "['linear_qkv']")],
)
def test_a_run_goes_on_with_its_own_adapters(name, value, there, here, tmp_path):
    with pytest.raises(ConfigError) as caught:
        go_on(tmp_path, **{name: value})
    run = tmp_path / "default" / "run"
    assert f"model_transform.{name} is {there} there, {here} here" in str(caught.value)
    assert f"log.version=NEW resume.restore_config.path={run}" in str(caught.value)


def test_dropout_may_change(tmp_path):
    assert go_on(tmp_path, dropout=0.5) == tmp_path / "default" / "run"


def test_layers_that_were_trained_whole_stay_so(tmp_path):
    stopped, frozen = recipe(STOPPED, ["action."]), recipe(STOPPED)
    with pytest.raises(
        ConfigError, match=r"reinitialize is \['action.', 'camera.'\] there, \['camera.'\] here; set it back"
    ):
        continue_with(tmp_path, stopped, frozen)
    frozen["resume"]["restore_config"] = None
    with pytest.raises(ConfigError, match="set it back"):
        continue_with(tmp_path / "none", stopped, frozen)
    assert continue_with(tmp_path / "same", stopped, stopped).name == "run"


def test_a_class_may_move_to_another_module(tmp_path):
    now = recipe(None, data=LatentFolderDataModule("latents"))
    stopped = recipe(None, data=LatentFolderDataModule("latents"))
    stopped["data"]["_target_"] = "cosmos1.data.latent_folder.LatentFolderDataModule"
    assert continue_with(tmp_path, stopped, now).name == "run"
    stopped["data"]["_target_"] = "cosmos1.data.modules.latent_folder.OtherDataModule"
    with pytest.raises(ConfigError, match="its data is OtherDataModule, this one's LatentFolderDataModule"):
        continue_with(tmp_path / "other", stopped, now)


def test_an_older_record_counts_where_the_newest_cannot_be_read(tmp_path):
    write_record(tmp_path, 4, "\0\0\0\0")
    assert continue_with(tmp_path, recipe(STOPPED), recipe(STOPPED)).name == "run"
    write_record(tmp_path / "other", 4, "- no settings")
    with pytest.raises(ConfigError, match="its model_transform is LoRA, this one's None"):
        continue_with(tmp_path / "other", recipe(STOPPED), recipe(None))
