# SPDX-License-Identifier: Apache-2.0
"""The command: pairs, scores of known shifts, networks from files, refusals, and the page."""

import json
import math
import sys
import time
from html.parser import HTMLParser
from subprocess import run
from urllib.parse import unquote

import pytest
import torch

from cosmos1.data.command_line import run_command
from cosmos1.data.video import read_video, write_video
from cosmos1.evaluation.__main__ import build_parser, main


@pytest.fixture
def evaluate(folders, monkeypatch):
    """Run the command in this process on the two folders; returns results.json."""

    def command(*arguments, generated="generated", reference="reference"):
        places = ["--generated", folders / generated, "--reference", folders / reference, "--output", folders / "out"]
        monkeypatch.setattr(sys, "argv", ["evaluation", "run", *map(str, [*places, *arguments])])
        run_command(build_parser(), main)
        return json.loads((folders / "out" / "results.json").read_text())

    return command


@pytest.fixture
def refusal(evaluate, capsys):
    """Run the command, which must end with status 2 before it writes anything; returns what it says."""

    def command(*arguments, **places):
        with pytest.raises(SystemExit) as exit_info:
            evaluate(*arguments, **places)
        assert exit_info.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        return message

    return command


def test_scores_of_known_shifts(evaluate, capsys):
    results = evaluate("--metrics", "psnr", "ssim", "latent_l2")
    assert [video["name"] for video in results["videos"]] == ["a.mp4", "b.mp4", "c.mp4"]
    for video, shift in zip(results["videos"], (4, 8, 16)):
        # Compression moves the mean of a channel by less than a grey level.
        assert video["scores"]["psnr"] == pytest.approx(20 * math.log10(255 / shift), abs=20 * math.log10(1.25))
        assert 0.9 < video["scores"]["ssim"] < 1
        assert len(video["per_frame"]["psnr"]) == len(video["per_frame"]["ssim"]) == video["num_frames"] == 9
    latent = [video["scores"]["latent_l2"] for video in results["videos"]]
    # A grey shift moves only luma, whose pattern sums 3 x 64 equal values and has the deviation 4.6: one channel of 16.
    assert sorted(latent) == latent and latent[2] == pytest.approx(16 / 127.5 * math.sqrt(3 * 64) / 4.6 / 4, rel=0.2)
    scores = [video["scores"]["psnr"] for video in results["videos"]]
    summary = results["metrics"]["psnr"]
    assert summary["mean"] == pytest.approx(sum(scores) / 3) and summary["num_videos"] == 3
    assert summary["std"] == pytest.approx(math.sqrt(sum((score - summary["mean"]) ** 2 for score in scores) / 2))
    printed = capsys.readouterr().out
    assert "PSNR (dB)" in printed and f"{summary['mean']:.2f}" in printed and "report.html" in printed


def test_names_in_one_folder_only_are_reported(evaluate, folders, capsys):
    (folders / "generated" / "a.mp4").rename(folders / "generated" / "other.mp4")
    results = evaluate("--metrics", "psnr")
    assert (results["missing"], results["extra"]) == (["a.mp4"], ["other.mp4"])
    assert [video["name"] for video in results["videos"]] == ["b.mp4", "c.mp4"]
    printed = capsys.readouterr().out
    assert "missing from --generated (1): a.mp4" in printed and "no reference for (1): other.mp4" in printed


def test_identical_videos_are_null_and_left_out_of_the_mean(evaluate, folders):
    (folders / "generated" / "a.mp4").write_bytes((folders / "reference" / "a.mp4").read_bytes())
    results = evaluate("--metrics", "psnr", "ssim")
    assert results["videos"][0]["scores"] == {"psnr": None, "ssim": 1.0}
    assert results["metrics"]["psnr"]["num_videos"] == 2
    assert "leaves out videos without a finite value (identical ones): 1" in results["notes"][0]


def test_videos_that_differ_are_refused_together_or_aligned(evaluate, refusal, folders):
    frames = read_video(folders / "generated" / "a.mp4")
    write_video(folders / "generated" / "a.mp4", frames[:5], 24)
    write_video(folders / "generated" / "c.mp4", frames[:, ::2, ::2], 12)
    message = refusal()
    assert "a.mp4: generated 5 frames, reference 9. Add --trim" in message
    assert "c.mp4: generated 16 x 24, reference 32 x 48. Add --resize" in message
    assert not (folders / "out").exists()
    results = evaluate("--metrics", "psnr", "--trim", "--resize")
    assert [video["num_frames"] for video in results["videos"]] == [5, 9, 9]
    assert (results["videos"][2]["height"], results["videos"][2]["width"]) == (32, 48)
    assert results["notes"][0].startswith("c.mp4: generated at 12 frames per second, reference at 24")
    results = evaluate("--metrics", "psnr", "--num_frames", 3, "--resize")
    assert [video["num_frames"] for video in results["videos"]] == [3, 3, 3]
    assert "--num_frames 6, but there are only 5" in refusal("--num_frames", 6, "--resize")


def test_a_metric_that_cannot_take_a_video_names_it(refusal):
    assert "a.mp4: tokenizer dct: 8 frames" in refusal("--metrics", "latent_l2", "--num_frames", 8)


@pytest.mark.parametrize(
    "arguments, places, says",
    [
        (("--metrics", "pnsr"), {}, 'no metric "pnsr"; did you mean "psnr"?'),
        (("--metrics", "fvd"), {}, "needs --fvd_weights FILE, the I3D features as TorchScript"),
        (("--metrics", "fid", "--fid_weights", "none.pt"), {}, "--fid_weights none.pt: there is no such file"),
        (("--tokenizer", "dtc"), {}, 'did you mean "dct"?'),
        (("--num_frames", 0), {}, "--num_frames 0: at least 1"),
        ((), {"generated": "reference"}, "are the same folder"),
        ((), {"generated": "elsewhere"}, "there is no such folder"),
        ((), {"generated": "."}, "no *.mp4 directly inside"),
    ],
)
def test_refusals_say_what_to_do(refusal, folders, arguments, places, says):
    assert says in refusal(*arguments, **places)
    assert not (folders / "out").exists()


def test_no_older_results_stay_when_a_video_turns_out_damaged(evaluate, refusal, folders):
    evaluate("--metrics", "psnr")
    damaged = folders / "generated" / "c.mp4"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    assert "c.mp4" in refusal("--metrics", "psnr")
    assert {path.name for path in (folders / "out").iterdir()} == {"contact_sheets"}


def test_damaged_files_and_unrelated_names_are_refused(refusal, folders):
    damaged = folders / "generated" / "b.mp4"
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert "b.mp4" in refusal()
    for path in list((folders / "generated").iterdir()):
        path.rename(path.with_name(f"x{path.name}"))
    assert "no file name is both in --generated" in refusal()


class MeanDistance(torch.nn.Module):
    """Stands for LPIPS: the mean absolute difference of pictures in [-1, 1]."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first - second).abs().mean(dim=(1, 2, 3), keepdim=True)


class ChannelMeans(torch.nn.Module):
    """Stands for Inception and I3D: mean colours; without the switches it gives what no one asked for."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.float().flatten(2).mean(dim=2) if return_features else x.float()


def save_script(network: torch.nn.Module, path) -> str:
    torch.jit.script(network).save(str(path))
    return str(path)


def test_networks_from_files(evaluate, folders):
    lpips = save_script(MeanDistance(), folders / "lpips.pt")
    means = save_script(ChannelMeans(), folders / "means.pt")
    weights = ("--lpips_weights", lpips, "--fid_weights", means, "--fvd_weights", means)
    results = evaluate("--metrics", "lpips", "fid", "fvd", *weights)
    for video, shift in zip(results["videos"], (4, 8, 16)):
        assert video["scores"]["lpips"] == pytest.approx(shift / 127.5, rel=0.25)
    assert results["metrics"]["fid"]["num_samples"] == 27 and results["metrics"]["fvd"]["num_samples"] == 3
    # The mean shift is 28/3 in each of three colours; the rest is the spread of the shifts.
    shift = 3 * (28 / 3) ** 2
    assert shift * 0.8 < results["metrics"]["fid"]["value"] < shift * 1.5
    assert results["notes"] == [
        "FVD: 3 samples of 3 features in each set; with so few the value is biased upwards, so compare it only with "
        "values from equally many samples"
    ]


class NoNumber(torch.nn.Module):
    """Stands for damaged weights: gives `value` for pictures that are darker than the middle on average."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.where(first.mean(dim=(1, 2, 3)) < 0, self.value, 1.0)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_score_that_is_no_number_is_not_taken_for_identical(refusal, folders, value):
    write_video(folders / "generated" / "b.mp4", read_video(folders / "generated" / "b.mp4") // 4, 24)
    for name in "ac":
        write_video(
            folders / "generated" / f"{name}.mp4", read_video(folders / "generated" / f"{name}.mp4") // 4 + 200, 24
        )
    weights = save_script(NoNumber(float(value)), folders / "lpips.pt")
    message = refusal("--metrics", "psnr", "lpips", "--lpips_weights", weights)
    assert f"b.mp4: LPIPS is {value}, a finite number is needed" in message
    assert not (folders / "out" / "results.json").exists()


def test_unfit_networks_are_refused(refusal, folders):
    assert "is not a TorchScript file" in refusal(
        "--metrics", "lpips", "--lpips_weights", folders / "generated" / "a.mp4"
    )
    distance = save_script(MeanDistance(), folders / "lpips.pt")
    assert "cannot take an input (1, 3, 9, 32, 48)" in refusal("--metrics", "fvd", "--fvd_weights", distance)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.targets, self.names = [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.targets += [attributes["href"]] if "href" in attributes else []
        self.names += [attributes["id"]] if "id" in attributes else []


def test_the_page_finds_every_file_and_escapes_names(evaluate, folders):
    strange = 'c #1 & "<b>".mp4'
    for folder in ("generated", "reference"):
        (folders / folder / "c.mp4").rename(folders / folder / strange)
    evaluate("--metrics", "psnr", "ssim")
    text = (folders / "out" / "report.html").read_text()
    page = Links()
    page.feed(text)
    assert len(page.sources) == 9  # two videos and a contact sheet for each of three pairs
    assert all((folders / "out" / unquote(source)).is_file() for source in page.sources)
    assert {target.removeprefix("#") for target in page.targets} == set(page.names) and len(page.names) == 3
    assert "<b>" not in text.replace("<b>PSNR</b>", "").replace("<b>SSIM</b>", "") and "http" not in text


def test_help_is_quick_and_imports_nothing_heavy():
    started = time.monotonic()
    code = "import sys, runpy; sys.argv = ['x', 'run', '--help']\n"
    code += "try: runpy.run_module('cosmos1.evaluation', run_name='__main__')\n"
    code += "except SystemExit: print('heavy:', {'torch', 'numpy', 'av', 'skimage'} & set(sys.modules))"
    result = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--fvd_weights" in result.stdout and "heavy: set()" in result.stdout
    assert time.monotonic() - started < 2
