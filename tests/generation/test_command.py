# SPDX-License-Identifier: Apache-2.0
"""What the generation commands make of their options, and what they refuse."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos1.data.video import write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation import action_command
from cosmos1.generation.command import add_starts, hooks, parser
from cosmos1.generation.generator import VideoShape
from cosmos1.generation.given_frames import read_given_frames, read_picture, read_views
from cosmos1.generation.hooks import load_guardrail, load_hook
from cosmos1.generation.requests import output_path, read_each, read_requests
from cosmos1.models.diffusion.config import DiTConfig

ROOT = Path(__file__).parents[2]


def requests(video2world: bool, *options):
    options = parser("", video2world).parse_args([str(option) for option in options])
    found = read_requests(options, ("visual_input", "seed") if video2world else ("seed",))
    if video2world:
        add_starts(options, found)
    return found


def test_one_prompt_is_one_video():
    (request,) = requests(False, "--prompt", "A red ball.", "--video_save_path", "out/a.mp4")
    assert (request.prompt, request.visual_input, request.save_path) == ("A red ball.", None, Path("out/a.mp4"))


def test_a_batch_finds_its_inputs_beside_the_file_and_numbers_its_videos(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.mp4").touch()
    lines = [{"prompt": "first", "visual_input": "clips/1.mp4"}, {"prompt": "second", "visual_input": "clips/1.mp4"}]
    (tmp_path / "batch.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    found = requests(True, "--batch_input_path", tmp_path / "batch.jsonl", "--video_save_path", tmp_path / "out")
    assert [request.prompt for request in found] == ["first", "second"]
    assert [request.save_path.name for request in found] == ["0.mp4", "1.mp4"]
    assert found[0].visual_input == str(tmp_path / "clips" / "1.mp4")


def test_a_line_sets_its_own_seed_and_may_hold_any_character(tmp_path):
    """JSON allows U+2028 in a text; it is no end of a line."""
    (tmp_path / "batch.jsonl").write_text('{"prompt": "a\u2028b", "seed": 7}\n{"prompt": "c"}\n')
    first, second = requests(False, "--batch_input_path", tmp_path / "batch.jsonl")
    options = parser("", False).parse_args(["--seed", "3"])
    assert first.prompt == "a\u2028b" and first.options(options).seed == 7
    assert second.options(options).seed == 3 and second.save_path == Path("generated/1.mp4")


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"prompt": null}', ["line 1", "prompt"]),
        ('{"prompt": 5}', ["line 1", "prompt", "text is needed"]),
        ('{"prompt": "a", "seed": "7"}', ["seed", "a whole number"]),
        ('{"prompt": "a", "seed": -7}', ["seed", "0 or more"]),
        ('{"prompt": "a", "num_steps": 7}', ["num_steps", "prompt, name, visual_input, seed"]),
        ('{"prompt": "a", "name": "x/../b"}', ["name", "without folders"]),
        ('{"prompt": "a", "name": ""}', ["name", "without folders"]),
        ('["a"]', ["line 1", "object"]),
        ('{"prompt": "a", "visual_input": "no.mp4"}', ["line 1", "no.mp4", "does not exist"]),
        ('{"prompt": "a"}\n{"text": "b"}', ["line 2", "prompt"]),
        ("not json", ["line 1"]),
        ("\n", ["no lines"]),
    ],
)
def test_a_bad_batch_file_names_its_line(tmp_path, text, words):
    (tmp_path / "batch.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        requests(True, "--batch_input_path", tmp_path / "batch.jsonl")
    assert all(word in str(caught.value) for word in words)


def test_a_mistake_found_later_names_its_line(tmp_path):
    (tmp_path / "batch.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    found = requests(False, "--batch_input_path", tmp_path / "batch.jsonl")

    def read(request):
        if request.prompt == "b":
            raise ConfigError("no such camera")

    with pytest.raises(ConfigError, match=r"^line 3 of .*batch.jsonl: no such camera$"):
        read_each(found, read)
    with pytest.raises(ConfigError, match="^no such camera$"):
        read_each(requests(False, "--prompt", "b"), read)


def test_a_batch_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "batch.jsonl").write_bytes('{"prompt": "café"}'.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        requests(False, "--batch_input_path", tmp_path / "batch.jsonl")


def test_what_stands_in_the_way_of_a_video_is_told_before_it_is_made(tmp_path):
    def path(*given, is_folder=False):
        return output_path(parser("", False).parse_args([str(option) for option in given]), is_folder)

    (tmp_path / "file").touch()
    assert path() == Path("generated.mp4") and path(is_folder=True) == Path("generated")
    assert path("--video_save_path", "a.json") == Path("a.json.mp4")  # a.json is for the record
    (tmp_path / "a.mp4").mkdir()
    for is_folder, wrong in ((False, "a.mp4"), (False, "file/a.mp4"), (True, "file")):
        with pytest.raises(ConfigError, match="--video_save_path"):
            path("--video_save_path", tmp_path / wrong, is_folder=is_folder)


@pytest.mark.parametrize(
    "option, value",
    [
        ("seed", "-1"),
        ("height", "0"),
        ("num_video_frames", "-7"),
        ("fps", "0"),
        ("guidance", "nan"),
        ("num_chunks", "0"),
    ],
)
def test_numbers_that_no_network_can_use(option, value, capsys):
    with pytest.raises(SystemExit):
        parser("", True).parse_args([f"--{option}", value])
    assert f"argument --{option}: {value} is" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--prompt", "a", "--batch_input_path", "b")])
def test_exactly_one_source_of_prompts(options):
    with pytest.raises(ConfigError, match="either --prompt or --batch_input_path"):
        requests(False, *options)


def test_video2world_needs_something_to_continue():
    with pytest.raises(ConfigError, match="conditioned_image_or_video_path"):
        requests(True, "--prompt", "a")


@pytest.mark.parametrize("size", [(120, 704, 1280), (121, 700, 1280), (121, 704, 1270)])
def test_sizes_that_no_tokenizer_makes(size):
    with pytest.raises(ConfigError, match="nearest are"):
        VideoShape(*size, 24).latent_shape(DiTConfig())
    assert VideoShape(121, 704, 1280, 24).latent_shape(DiTConfig()) == [16, 16, 88, 160]


def test_given_frames_of_an_image_and_of_a_file_that_is_none(tmp_path):
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "start.png")
    assert read_given_frames(str(tmp_path / "start.png"), 1).shape == (1, 6, 8, 3)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        read_given_frames(str(tmp_path / "broken.png"), 1)


def test_a_picture_is_upright_and_over_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.new("RGB", (60, 40), (0, 0, 255)).save(tmp_path / "phone.jpg", exif=exif)
    assert read_picture(str(tmp_path / "phone.jpg")).shape == (60, 40, 3)
    Image.new("RGBA", (8, 6), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(str(tmp_path / "clear.png")) == 255).all()
    Image.fromarray(np.full((6, 8), 2000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="8 bits"):
        read_picture(str(tmp_path / "deep.png"))


def test_views_begin_with_equally_many_frames(tmp_path):
    write_video(tmp_path / "a.mp4", np.stack([np.full((16, 16, 3), 20 * t, np.uint8) for t in range(12)]), 8)
    Image.new("RGB", (16, 16)).save(tmp_path / "b.png")
    first, last = (read_given_frames(str(tmp_path / "a.mp4"), 9, from_start) for from_start in (True, False))
    assert abs(int(first[0].mean()) - 0) < 4 and abs(int(last[-1].mean()) - 220) < 4 and len(first) == len(last) == 9
    with pytest.raises(ConfigError, match=r"\[9, 1\] frames"):
        read_views([str(tmp_path / "a.mp4"), str(tmp_path / "b.png")], 9)
    with pytest.raises(ConfigError, match="use 1 or more"):
        read_given_frames(str(tmp_path / "a.mp4"), 0)


def test_hooks_are_imported_by_name_or_refused():
    assert load_hook(None)("same") == "same"
    assert load_hook("os.path:basename")("a/b") == "b"
    for name in ("nothing", "no_such_module:f", "os.path:no_such_function"):
        with pytest.raises(ConfigError, match="package.module:function"):
            load_hook(name)


def test_the_guardrail_says_how_to_install_it():
    with pytest.raises(ConfigError, match="pip install cosmos_guardrail"):
        load_guardrail()


class StubChecker:
    """The interface of the guardrail: None stands for an unsafe video, and ``to`` returns nothing."""

    def to(self, place):
        self.place = str(place)

    def check_text_safety(self, prompt):
        return self.place == "cpu" and "weapon" not in prompt

    def check_video_safety(self, frames):
        return frames + 1 if frames.min() else None


def test_the_guardrail_refuses_prompts_and_videos(monkeypatch):
    monkeypatch.setattr("cosmos1.parallel.device.device", lambda: torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "cosmos_guardrail", SimpleNamespace(CosmosSafetyChecker=StubChecker))
    options = ["--prompt_hook", "os.path:basename", "--guardrail"]
    check_prompt, finish_video = hooks(parser("", False).parse_args(options))
    assert check_prompt("weapon/ball") == "ball" and (finish_video(np.ones((1, 2, 2, 3))) == 2).all()
    with pytest.raises(ConfigError, match="refuses the prompt: weapon"):
        check_prompt("a/weapon")
    with pytest.raises(ConfigError, match="refuses the video"):
        finish_video(np.zeros((1, 2, 2, 3)))
    # Networks for action control read no prompt; their videos are checked like all others.
    _, finish_video = hooks(action_command.parser("").parse_args(["--checkpoint", "run", "--guardrail"]))
    with pytest.raises(ConfigError, match="refuses the video"):
        finish_video(np.zeros((1, 2, 2, 3)))


@pytest.mark.e2e
@pytest.mark.parametrize(
    "options, words",
    [
        (["--prompt", "a"], "give --checkpoint"),
        (["--prompt", "a", "--checkpoint", "nowhere"], "nowhere"),
        (["--prompt", "a", "--model", "tiny", "--height", "50"], "multiples of 16"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(options, words, tmp_path):
    command = [sys.executable, ROOT / "recipes/generate/text2world.py", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ") and words in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
