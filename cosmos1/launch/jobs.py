# SPDX-License-Identifier: Apache-2.0
"""What is launched, the script that each node runs, and the record that ``status``, ``logs`` and ``cancel`` read."""

import dataclasses
import json
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from cosmos1.errors import ConfigError, suggestion
from cosmos1.launch.profiles import Profile

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
SHORTEST_SECRET = 6
"""Shorter values are taken for switches, not for secrets; they would occur in any script by chance."""


@dataclass(frozen=True)
class Job:
    """One recipe with its arguments, and how it shall run."""

    name: str
    id: str
    command: List[str]
    """The recipe script and its arguments, as they would follow torchrun."""
    profile: Profile
    chain: int = 1
    """Jobs one after another, each of which resumes the run of the one before."""
    dependency: Optional[str] = None
    """Job, of the executor or of this command, that must succeed first."""
    retries: int = 0

    @property
    def task_names(self) -> List[str]:
        return [self.name] if self.chain == 1 else [f"{self.name}-{n}" for n in range(1, self.chain + 1)]


@dataclass(frozen=True)
class Record:
    """What is kept of a launched job, in ``<NEMORUN_HOME>/launches/<id>.json``; no secret is in it."""

    id: str
    name: str
    executor: str
    jobs: List[str]
    """Names or numbers under which the executor knows the jobs."""
    command: List[str]
    profile: Dict[str, Any]

    def save(self) -> None:
        launches_dir().mkdir(parents=True, exist_ok=True)
        (launches_dir() / f"{self.id}.json").write_text(json.dumps(dataclasses.asdict(self), indent=1))


@dataclass(frozen=True)
class JobState:
    """One job as its executor sees it."""

    job: str
    state: str
    finished: bool
    exit_status: int = 0


def launches_dir() -> Path:
    """Records and local logs; beside NeMo-Run's experiments."""
    return Path(os.environ.get("NEMORUN_HOME", "~/.nemo_run")).expanduser() / "launches"


def find_record(job_id: str) -> Record:
    """The record of an earlier launch; ``job_id`` may also be the name of a job, whose newest launch is meant."""
    files = {path.stem: path for path in launches_dir().glob("*.json")}
    same_name = sorted(stem for stem in files if stem.rpartition("_")[0] == job_id)
    found = files.get(job_id) or (files[same_name[-1]] if same_name else None)
    if found is None:
        raise ConfigError(f'no launch "{job_id}" in {launches_dir()}{suggestion(job_id, files)}')
    return Record(**json.loads(found.read_text()))


def make_job(command: List[str], profile: Profile, name: Optional[str], **options: Any) -> Job:
    """A job with a name and an id of its own; training recipes get a fixed run folder, so that restarts continue it.

    Raises:
        ConfigError: no such recipe, or a name that a cluster would refuse.
    """
    if not command:
        raise ConfigError("no recipe; write it after --, as in: -- recipes/diffusion/general.py --factory NAME")
    script = Path(command[0])
    if not script.is_file():
        raise ConfigError(f"no recipe {script} below {Path.cwd()}; launch from the root of the repository")
    name = name or script.stem.replace("_", "-")
    if not NAME.fullmatch(name):
        raise ConfigError(f'--name "{name}" needs lower-case letters, digits and hyphens, at most 40, a letter first')
    job_id = f"{name}_{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() // 1_000_000 % 1000:03d}"
    is_training = "cosmos1.launch.cli" in script.read_text()
    if is_training and not any(argument.startswith("log.version=") for argument in command):
        command = [*command, f"log.version={job_id}"]
    return Job(name, job_id, command, profile, **options)


def node_script(job: Job, rendezvous: List[str], max_restarts: int = 0) -> str:
    """The bash script that starts the recipe's processes on one node.

    Args:
        rendezvous: options by which torchrun finds the other nodes, when there are several; shell text, so that
            variables are expanded on the node.
        max_restarts: how often torchrun itself starts all processes again after a failure.
    """
    profile = job.profile
    lines = ["set -eo pipefail", f"cd {shlex.quote(profile.workdir or os.getcwd())}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in profile.env.items()]
    lines += [
        'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"',
        "export PYTHONUNBUFFERED=1",
        f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={profile.save_seconds}",
        *profile.setup,
    ]
    torchrun = ["exec torchrun", f"--nproc_per_node={profile.num_processes}"]
    torchrun += rendezvous if profile.nodes > 1 else ["--standalone"]
    if max_restarts:
        torchrun.append(f"--max_restarts={max_restarts}")
    return "\n".join([*lines, " ".join([*torchrun, shlex.join(job.command)])]) + "\n"


def refuse_secrets(job: Job, texts: List[str]) -> None:
    """Raise ConfigError when the value of a secret variable occurs in what will be written, shown or sent."""
    for name in job.profile.secrets:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST_SECRET and any(value in text for text in texts):
            raise ConfigError(
                f"the value of {name} is in the recipe's arguments or the profile and would be written into a script; "
                f"take it out: the job gets {name} from the environment of this shell"
            )
