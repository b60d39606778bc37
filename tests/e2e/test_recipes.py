# SPDX-License-Identifier: Apache-2.0
"""The commands of the README and of docs/general.md, as a user types them."""

import importlib.util
import json
import runpy
import time
from pathlib import Path

import fiddle as fdl
import pytest

from benchmarks.parameter_counts import factories
from cosmos1.data.video import read_video
from cosmos1.parallel.strategy import micro_batches_per_step
from tests.processes import ROOT, run

RECIPES = {
    f"cosmos_diffusion_{size}_{task}_finetune": ROOT / "recipes" / "diffusion" / f"{file}.py"
    for size in ("7b", "14b", "tiny")
    for task, file in (("text2world", "general"), ("video2world", "video2world"))
}
TINY = "cosmos_diffusion_tiny_text2world_finetune"


def load_recipe(name: str):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_and_fits_its_layout(name):
    arguments = fdl.build(load_recipe(name)).keywords
    model, trainer = arguments["model"], arguments["trainer"]
    model.validate(trainer.strategy, trainer.devices * trainer.num_nodes)
    trainer.validate()
    arguments["optim"].validate()
    arguments["log"].ckpt.validate()
    size = name.split("_")[2]
    assert model.config.num_layers == {"7b": 28, "14b": 36, "tiny": 4}[size]
    assert model.config.condition_mask == ("video2world" in name)
    if size != "tiny":
        model.validate_sample(trainer.strategy, [16, 16, 88, 160])
        assert trainer.precision == "bf16" and model.tokenizer == "cosmos_cv8x8x8"


@pytest.mark.parametrize("name, factory", factories())
def test_the_batch_of_every_factory_fits_its_own_layout(name, factory):
    """The command that the recipe's file shows, with as many processes as the recipe has devices."""
    arguments = fdl.build(factory()).keywords
    trainer, data = arguments["trainer"], arguments["data"]
    num_replicas = trainer.strategy.data_parallel_size(trainer.devices * trainer.num_nodes)
    assert micro_batches_per_step(data, trainer.strategy, num_replicas) >= 1
    if "tiny" in name:
        # One process does as well.
        assert micro_batches_per_step(data, trainer.strategy, 1) == trainer.devices == 2


OVERRIDES = {
    "data.path": "/somewhere/cached",
    "data.global_batch_size": "16",
    "trainer.max_steps": "7",
    "trainer.val_check_interval": "50",
    "trainer.strategy.tensor_model_parallel_size": "8",
    "trainer.strategy.sequence_parallel": "True",
    "trainer.strategy.ddp.overlap_grad_reduce": "False",
    "model.config.recompute_granularity": "full",
    "optim.config.lr": "1e-05",
    "optim.lr_scheduler.policy": "cosine",
    "optim.ema_widths": "[0.1]",
    "resume.restore_config.path": "/somewhere/checkpoint",
    "resume.resume_if_exists": "False",
    "log.log_dir": "/somewhere/runs",
    "log.ckpt.every_n_train_steps": "20",
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", [name for name in RECIPES if "14b" in name])
def test_dryrun_shows_every_override_of_the_guide(name):
    started = time.monotonic()
    result = run(RECIPES[name], "--dryrun", "--factory", name, *(f"{k}={v}" for k, v in OVERRIDES.items()))
    assert time.monotonic() - started < 15  # 3 s alone; the machine may be busy
    for key, value in OVERRIDES.items():
        assert f"  {key} = {value}\n" in result.stdout, key


@pytest.mark.e2e
def test_restore_config_can_be_switched_off():
    result = run(RECIPES[TINY], "--dryrun", "--factory", TINY, "resume.restore_config=None")
    assert "  resume.restore_config = None\n" in result.stdout


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    size = ("--num_frames", 17, "--height", 32, "--width", 48)
    run("data_prep/demo_world.py", "--output_path", folder / "videos", "--num_videos", 12, *size)
    paths = ("--dataset_path", folder / "videos", "--output_path", folder / "latents")
    run("data_prep/prepare_dataset.py", *paths, "--num_chunks", 1, *size)
    return folder / "latents"


@pytest.mark.e2e
def test_train_from_energon_shards_and_resume(latents, tmp_path):
    shards, runs = tmp_path / "shards", tmp_path / "runs"
    run("data_prep/shard.py", "--input_path", latents, "--output_path", shards, "--shard_megabytes", "0.2")
    settings = ["data=energon_shards", f"data.path={shards}", "data.global_batch_size=2", "data.num_workers=1"]
    settings += [f"log.log_dir={runs}", "log.version=v", "trainer.log_every_n_steps=1", "trainer.callbacks=[]"]
    settings += ["model.config.num_layers=1", "model.config.hidden_size=64", "optim.lr_scheduler.policy=constant"]
    losses = []
    for folder, stops in (("unbroken", [4]), ("resumed", [2, 4])):
        for max_steps in stops:
            command = (RECIPES[TINY], "--yes", "--factory", TINY, *settings, f"log.name={folder}")
            run(*command, f"trainer.max_steps={max_steps}")
        rows = map(json.loads, (runs / folder / "v" / "metrics.jsonl").read_text().splitlines())
        losses.append({row["step"]: row["loss"] for row in rows if "loss" in row})
    assert losses[0] == losses[1] and sorted(losses[0]) == [1, 2, 3, 4]


@pytest.mark.e2e
def test_video2world_trains_and_continues_a_video(latents, tmp_path):
    name = "cosmos_diffusion_tiny_video2world_finetune"
    settings = [f"data.path={latents}", f"log.log_dir={tmp_path}", "log.version=v", "trainer.max_steps=2"]
    settings += ["model.config.num_layers=1", "data.micro_batch_size=2", "data.global_batch_size=2"]
    result = run(RECIPES[name], "--yes", "--factory", name, *settings)
    assert "given latent frames: 0 to 2 per sample" in result.stdout
    video = latents.parent / "videos" / "000.mp4"
    options = ["--prompt", "A red ball.", "--num_video_frames", 17, "--height", 32, "--width", 48, "--num_steps", 4]
    options += ["--conditioned_image_or_video_path", video, "--num_input_frames", 9, "--fps", 12]
    run("recipes/generate/video2world.py", "--checkpoint", tmp_path / "default" / "v", *options,
        "--video_save_path", tmp_path / "out.mp4")  # fmt: skip
    assert read_video(tmp_path / "out.mp4").shape == (17, 32, 48, 3)
    assert json.loads((tmp_path / "out.json").read_text())["num_input_frames"] == 9
    line = json.dumps({"prompt": "A red ball.", "visual_input": str(video)})
    (tmp_path / "batch.jsonl").write_text(line + "\n")
    single = ("--prompt", "A red ball.", "--conditioned_image_or_video_path", video)
    batch = [option for option in options if option not in single]
    run("recipes/generate/video2world.py", "--checkpoint", tmp_path / "default" / "v", *batch, "--num_chunks", 2,
        "--batch_input_path", tmp_path / "batch.jsonl", "--video_save_path", tmp_path / "long")  # fmt: skip
    assert len(read_video(tmp_path / "long" / "0.mp4")) == 17 + (17 - 9)
    refused = run(
        "recipes/generate/text2world.py", "--checkpoint", tmp_path / "default" / "v", "--prompt", "x", check=False
    )
    assert refused.returncode == 2 and "video2world.py" in refused.stderr


@pytest.mark.e2e
def test_exported_weights_generate_the_same_video(latents, tmp_path):
    settings = [f"data.path={latents}", f"log.log_dir={tmp_path}", "log.version=v", "trainer.max_steps=3"]
    settings += [
        "model.config.num_layers=2",
        "data.micro_batch_size=2",
        "data.global_batch_size=2",
        "trainer.callbacks=[]",
    ]
    run(RECIPES[TINY], "--yes", "--factory", TINY, *settings)
    trained = tmp_path / "default" / "v"
    convert = ("-m", "cosmos1.checkpoint", "convert", trained)
    run(*convert, tmp_path / "pt", "--to", "pt")
    run(*convert, tmp_path / "diffusers", "--to", "diffusers", "--ema", 0)
    (ema_file,) = (tmp_path / "pt").glob("iter_000000003_ema_model.pt")
    what = ["--prompt", "A red ball.", "--num_video_frames", 9, "--height", 32, "--width", 48, "--num_steps", 4]
    sources = {"dist": [trained, "--ema", 0], "pt": [ema_file], "diffusers": [tmp_path / "diffusers"]}
    videos = {}
    for name, source in sources.items():
        path = tmp_path / f"{name}.mp4"
        network = ("--checkpoint", *source, "--tokenizer", "dct")
        run("recipes/generate/text2world.py", *network, *what, "--video_save_path", path)
        videos[name] = path.read_bytes()
    assert videos["pt"] == videos["dist"] and videos["diffusers"] == videos["dist"]
    different = run("recipes/generate/text2world.py", "--checkpoint", trained, *what, "--seed", 2,
                    "--video_save_path", tmp_path / "other.mp4")  # fmt: skip
    assert different.returncode == 0 and (tmp_path / "other.mp4").read_bytes() != videos["dist"]


@pytest.mark.parametrize(
    "passed, seconds_per_step, steps", [(80, 0.5, 440), (170, 1.0, 270), (330, 3.0, 120), (900, 8.0, 120)]
)
def test_a_slow_machine_trains_a_shorter_demo(tmp_path, monkeypatch, passed, seconds_per_step, steps):
    demo = runpy.run_path(str(ROOT / "recipes/demo.py"))["Demo"](tmp_path, None, None)
    monkeypatch.setattr(time, "monotonic", lambda: demo.started + passed)
    assert demo.steps_in_time(110, seconds_per_step) == steps


@pytest.mark.e2e
def test_demo_leaves_everything_it_names(tmp_path):
    result = run("recipes/demo.py", "--output_path", tmp_path / "demo", "--max_steps", 4)
    named = dict(line.rsplit(None, 1) for line in result.stdout.split("Done.\n")[1].splitlines())
    assert set(named) == {"loss plot", "video before", "video after", "contact sheet", "checkpoint"}
    for path in named.values():
        assert Path(path).exists()
    assert named["checkpoint"].endswith("step=4") and "resumed" in result.stdout
