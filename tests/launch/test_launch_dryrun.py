# SPDX-License-Identifier: Apache-2.0
"""The scripts of every executor against stored ones. After an intended change: UPDATE_GOLDEN=1 pytest tests/launch."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.launch.launching import RECIPE, ROOT, SECRETS, call_many

GOLDEN = Path(__file__).parent / "golden"
PROFILES = Path(__file__).parent / "profiles.yaml"
OPTIONS = {
    "slurm_pyxis": ["--chain", "2", "--dependency", "17", "--retries", "3"],
    "slurm_venv": ["--retries", "1"],
    "local": ["--retries", "2"],
    "docker": ["--retries", "2"],
}
NAMES = list(yaml.safe_load(PROFILES.read_text()))


@pytest.fixture(scope="module")
def dryruns(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    calls = {
        name: ["--profile", name, "--profile-file", str(PROFILES), "--dryrun", *OPTIONS.get(name, []), *RECIPE]
        for name in NAMES
    }
    calls |= {
        f"{name} with a secret": [*calls[name], f"data.path=https://me:{SECRETS['HF_TOKEN']}@host"] for name in NAMES
    }
    return home, call_many(home, calls)


@pytest.mark.parametrize("name", NAMES)
def test_dryrun_equals_the_stored_scripts(dryruns, name):
    home, answers = dryruns
    answer = answers[name]
    assert (answer["status"], answer["errors"]) == (0, "")
    text = answer["output"].replace(str(home), "HOME").replace(str(ROOT), "REPOSITORY")
    text = re.sub(r"general(.)\d{8}-\d{6}-\d{3}", r"general\1STAMP", text)
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / f"{name}.txt").write_text(text)
    assert text == (GOLDEN / f"{name}.txt").read_text()


def test_no_secret_is_printed_or_written(dryruns):
    home, answers = dryruns
    stored = [path.read_text() for path in GOLDEN.iterdir()]
    printed = [answer["output"] + answer["errors"] for answer in answers.values()]
    assert not any(value in text for value in SECRETS.values() for text in [*stored, *printed])
    assert not list(home.rglob("*")), "a dry run leaves nothing"


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_in_the_arguments_is_refused(dryruns, name):
    answer = dryruns[1][f"{name} with a secret"]
    assert answer["status"] == 2 and answer["output"] == ""
    assert answer["errors"].startswith("error: the value of HF_TOKEN is in the recipe's arguments")


@pytest.mark.parametrize("name", NAMES)
def test_every_executor_names_the_secrets(name):
    """By reference; Slurm without a container and torchrun hand on the whole environment."""
    text = (GOLDEN / f"{name}.txt").read_text()
    inherited = name in ("local", "slurm_venv")
    # SkyPilot is given those that are set; the others are looked up where the job runs.
    assert ("HF_TOKEN" in text and "WANDB_API_KEY" in text) != inherited


def test_stored_yaml_and_shell_are_well_formed():
    for name, title in (("skypilot", "yaml"), ("kubeflow", "kubectl create --filename=-")):
        body = (GOLDEN / f"{name}.txt").read_text().split(f"{title}\n", 1)[1].split("\n# ----")[0]
        parsed = yaml.safe_load(body)
        script = parsed["run"] if name == "skypilot" else parsed["spec"]["trainer"]["command"][2]
        assert script.startswith("set -eo pipefail\n") and "exec torchrun --nproc_per_node=8 --nnodes=8" in script
