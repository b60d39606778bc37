# SPDX-License-Identifier: Apache-2.0
"""A cluster started by SkyPilot, through its own program.

NeMo-Run's SkypilotExecutor is not used: SkyPilot 0.14 needs click below 8.2 and wandb a newer one, so that it must live
in an environment of its own (``uv tool install skypilot``), and the executor has no way to pass secrets by name.
"""

import json
import os
import shlex
from pathlib import Path
from typing import Any, Dict, List

from cosmos1.errors import ConfigError
from cosmos1.launch.executors.base import Executor, call, require_program, show, yaml_text
from cosmos1.launch.jobs import Job, JobState, Record, launches_dir, node_script

FINISHED = ("SUCCEEDED", "FAILED", "FAILED_SETUP", "FAILED_DRIVER", "CANCELLED")


class Skypilot(Executor):
    def require(self, profile: Dict[str, Any]) -> None:
        require_program(
            "sky", "install it apart from this environment: uv tool install 'skypilot[all]==0.14.1'; then: sky check"
        )

    def texts(self, job: Job) -> Dict[str, str]:
        return {f"{job.id}.yaml": task_yaml(job), "command": shlex.join(_launch_command(job)) + "\n"}

    def submit(self, job: Job) -> List[str]:
        launches_dir().mkdir(parents=True, exist_ok=True)
        _task_file(job.id).write_text(task_yaml(job))
        if show(_launch_command(job)):
            raise ConfigError(f"sky could not launch {job.id}; the lines above say why, sky check looks at the clouds")
        return [job.name]

    def states(self, record: Record) -> List[JobState]:
        answer = call(
            ["sky", "queue", "--output", "json", record.name], f"asking for the jobs of cluster {record.name}"
        )
        jobs = json.loads(answer[answer.index("{") :]).get(record.name) if "{" in answer else None
        if not jobs:
            return [JobState(record.name, "unknown: the cluster is gone", True, 1)]
        state = jobs[0]["status"]
        return [JobState(record.name, state, state in FINISHED, int(state != "SUCCEEDED"))]

    def logs(self, record: Record, follow: bool) -> None:
        show(["sky", "logs", *([] if follow else ["--no-follow"]), record.name])

    def cancel(self, record: Record) -> None:
        if show(["sky", "down", "--yes", record.name]):
            raise ConfigError(f"sky could not take down {record.name}; try: sky down {record.name}")


def task_yaml(job: Job) -> str:
    """The SkyPilot task: this folder is copied to every node, which runs the node script there."""
    profile = job.profile
    rendezvous = [
        f"--nnodes={profile.nodes}",
        "--node_rank=$SKYPILOT_NODE_RANK",
        '--master_addr="$(head -n 1 <<<"$SKYPILOT_NODE_IPS")"',
        f"--master_port={profile.rendezvous_port}",
    ]
    task: Dict[str, Any] = {"name": job.name, "workdir": os.getcwd(), "num_nodes": profile.nodes}
    if profile.resources:
        task["resources"] = profile.resources
    if profile.file_mounts:
        task["file_mounts"] = profile.file_mounts
    task["run"] = node_script(job, rendezvous)
    return yaml_text(task)


def _launch_command(job: Job) -> List[str]:
    secrets = [f"--secret={name}" for name in job.profile.secrets if os.environ.get(name)]
    return [
        "sky",
        "launch",
        "--yes",
        "--detach-run",
        "--down",
        f"--cluster={job.name}",
        *secrets,
        str(_task_file(job.id)),
    ]


def _task_file(job_id: str) -> Path:
    return launches_dir() / f"{job_id}.yaml"
