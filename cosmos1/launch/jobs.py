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
from typing import Any, Dict, Iterator, List, Optional

from cosmos1.errors import ConfigError, UserError, suggestion
from cosmos1.launch.profiles import SECRET_NAME, Profile

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
UNKNOWN = "UNKNOWN"
SHORTEST_SECRET = 6
"""Shorter values are taken for switches, not for secrets; they would occur in any script by chance."""
# A variable or a command in the place of the value is welcome: HF_TOKEN=$HF_TOKEN, HF_TOKEN="$(cat file)".
WRITTEN_SECRET = re.compile(rf"(?<!\w)({SECRET_NAME})\s*=\s*['\"]?[^\s'\"$`]", re.IGNORECASE)
HUGGING_FACE_TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20}")


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


class JobLost(UserError):
    """A job was launched, and its executor does not know it, or its log, any more; status 1, as of a failed job."""


@dataclass(frozen=True)
class JobState:
    """One job as its executor sees it; UNKNOWN when it does not."""

    job: str
    state: str
    finished: bool
    exit_status: int = 0


def launches_dir() -> Path:
    """Records and local logs; beside NeMo-Run's experiments."""
    return Path(os.environ.get("NEMORUN_HOME", "~/.nemo_run")).expanduser().absolute() / "launches"


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
    if is_training and not any(re.match(r"log\.version\s*=", argument) for argument in command):
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


def refuse_secrets(job: Job) -> None:
    """Raise ConfigError when a secret is in the arguments or the profile, which will be written, shown and sent.

    A secret is the value that a variable of the profile's secrets has in this shell, what is assigned to a name of a
    secret, or what looks like a token of Hugging Face. The message names it and never shows it.
    """
    values = {name: os.environ.get(name, "") for name in job.profile.secrets}
    values = {name: value for name, value in values.items() if len(value) >= SHORTEST_SECRET}
    for text in _texts([*job.command, *dataclasses.asdict(job.profile).values()]):
        found = [f"the value of {name}" for name, value in values.items() if value in text]
        found += [f"a value for {match[1]}" for match in WRITTEN_SECRET.finditer(text)]
        found += ["a token of Hugging Face" for _ in HUGGING_FACE_TOKEN.finditer(text)]
        if found:
            raise ConfigError(
                f"{found[0]} is in the recipe's arguments or the profile and would be written into a script; take it "
                "out: export it in the shell that launches, and give the name of the variable in secrets"
            )


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested lists and tables; key=value for those in a table."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (f"{key}={text}" for text in _texts(item))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)
