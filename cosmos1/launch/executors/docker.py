# SPDX-License-Identifier: Apache-2.0
"""``docker run`` on this machine.

NeMo-Run's DockerExecutor is not used: it writes the environment, secrets included, to a file, passes the command
through a second pair of double quotes, and asks for --rm together with a restart policy, which Docker refuses.
"""

import os
import shlex
import subprocess
from typing import Any, Dict, List

from cosmos1.errors import ConfigError
from cosmos1.launch.executors.base import Executor, ask, call, follow_logs, require_program, show, show_logs
from cosmos1.launch.jobs import UNKNOWN, Job, JobState, Record, node_script

FINISHED = ("exited", "dead")


class Docker(Executor):
    supports_retries = True

    def require(self, profile: Dict[str, Any]) -> None:
        require_program("docker", "install Docker Engine (https://docs.docker.com/engine/install)")
        try:
            probe = subprocess.run(
                ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, timeout=5
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(
                "docker does not answer within 5 s; is the Docker daemon well? (docker version)"
            ) from None
        if probe.returncode:
            reason = " ".join(probe.stderr.decode(errors="replace").split())
            raise ConfigError(f"the Docker daemon cannot be used: {reason} Start it, or join the group docker")

    def texts(self, job: Job) -> Dict[str, str]:
        return {"command": shlex.join(docker_command(job)) + "\n"}

    def submit(self, job: Job) -> List[str]:
        call(docker_command(job), f"starting a container of {job.profile.container_image}")
        return [_container(job.id)]

    def states(self, record: Record) -> List[JobState]:
        container = record.jobs[0]
        answer = ask(
            ["docker", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container],
            f"asking for {container}",
            not_known="no such",
        )
        if answer is None:
            return [JobState(container, UNKNOWN, False)]
        state, status = answer.split()
        return [JobState(container, state, state in FINISHED, int(status))]

    def logs(self, record: Record, follow: bool) -> None:
        if follow:
            follow_logs(["docker", "logs", "--follow", record.jobs[0]], lambda: self.is_over(record))
        else:
            show_logs(["docker", "logs", record.jobs[0]], record)

    def cancel(self, record: Record) -> None:
        seconds = record.profile["save_seconds"]
        print(f"waiting up to {seconds} s for the run to save", flush=True)
        if show(["docker", "stop", "-t", str(seconds), record.jobs[0]]):
            raise ConfigError(f"docker could not stop {record.jobs[0]}")


def docker_command(job: Job) -> List[str]:
    """The ``docker run`` of a job. Secrets go by name: Docker takes their values from the environment."""
    profile = job.profile
    command = ["docker", "run", "--detach", "--init", f"--name={_container(job.id)}", "--network=host"]
    command += [f"--shm-size={profile.shm_size}" if profile.shm_size else "--ipc=host"]
    command.append(f"--stop-timeout={profile.save_seconds}")
    if profile.gpus_per_node:  # NCCL locks memory for its transfers
        command += [f"--gpus={profile.gpus_per_node}", "--ulimit=memlock=-1", "--ulimit=stack=67108864"]
    if job.retries:
        command.append(f"--restart=on-failure:{job.retries}")
    for mount in [f"{os.getcwd()}:{profile.workdir}", *profile.mounts]:
        command.append(f"--volume={mount}")
    command += [f"--env={name}" for name in profile.secrets]
    script = node_script(job, [])
    return [*command, *profile.options, profile.container_image, "bash", "-c", script]


def _container(job_id: str) -> str:
    return f"cosmos1-{job_id}"
