# SPDX-License-Identifier: Apache-2.0
"""The doctor: statuses, remedies, and that it never shows a secret."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cosmos1.doctor import __main__ as doctor
from cosmos1.doctor import hardware, software, surroundings

ROOT = Path(__file__).parents[1]
SECRET = "hf_do_not_show_this_0123456789012345678901"


def test_the_command_on_this_machine(tmp_path):
    """It shows no secret, writes nothing, and imports nothing heavy but torch."""
    environment = os.environ | {"HF_TOKEN": SECRET, "WANDB_API_KEY": SECRET, "HF_HOME": str(tmp_path / "hf")}
    arguments = ["--log_dir", str(tmp_path / "runs")]
    code = (
        f"import sys; from cosmos1.doctor.__main__ import main; print(main({arguments}), *sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    status, *loaded = ended.stderr.split()
    assert status == "0", ended.stdout + ended.stderr
    assert SECRET not in ended.stdout
    for words in ("torch ", "megatron-core", "nemo_run", "HF token", "present (not shown)", "training can run"):
        assert words in ended.stdout
    assert "torch" in loaded
    assert not {"megatron.core", "transformers", "diffusers", "nemo_run", "av", "wandb", "matplotlib"} & set(loaded)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_a_problem_and_status_1(monkeypatch, capsys):
    found = software.version
    monkeypatch.setattr(software, "version", lambda name: None if name == "megatron-core" else found(name))
    assert doctor.main([]) == 1
    output = capsys.readouterr().out
    assert "training cannot run: megatron-core" in output and "pip install -e ." in output


@pytest.mark.parametrize(
    "found, wanted, fits",
    [
        ("0.16.1", "0.16.1", True),
        ("0.16.2", "0.16.1", False),
        ("0.27.3", ">=0.26.6,<0.47", True),
        ("0.47.0", ">=0.26.6,<0.47", False),
        ("0.26.5", ">=0.26.6,<0.47", False),
        ("2.13.0+cpu", ">=2.11,<2.14", True),
        ("2.9.1", ">=2.11,<2.14", False),
    ],
)
def test_version_ranges(found, wanted, fits):
    assert software.satisfies(found, wanted) is fits


def test_packages_and_ranges_are_those_of_setup_py():
    """In both directions; torch has a check of its own."""
    required = (ROOT / "setup.py").read_text().split("install_requires=[")[1].split("]")[0]
    checked = {f"{name}{'==' * wanted[:1].isdigit()}{wanted}" for name, _, wanted, _ in software._PACKAGES}
    assert checked | {"torch>=2.11,<2.14"} == set(re.findall(r'"(.+)"', required))


def test_gpus_that_torch_cannot_use():
    class CpuTorch:
        class version:
            cuda = None

    finding = hardware._no_gpu(CpuTorch, ["NVIDIA H200, 580.1"])
    assert finding.level == "problem" and "built for CPUs only" in finding.text and finding.remedy
    assert hardware._no_gpu(CpuTorch, []).level == "note"


def test_a_run_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    finding = surroundings._folder("run folder", tmp_path / "file" / "runs", 1, "log.log_dir=FOLDER")
    assert finding.level == "problem" and str(tmp_path / "file") in finding.text and "log.log_dir" in finding.remedy


def test_no_network_is_said_with_the_way_out():
    finding = surroundings._reach("http://127.0.0.1:9")
    assert finding.level == "note" and "does not answer" in finding.text and "HF_HUB_OFFLINE=1" in finding.remedy
