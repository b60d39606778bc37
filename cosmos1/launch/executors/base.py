# SPDX-License-Identifier: Apache-2.0
"""What every executor can do, and how their programs are called."""

import shutil
import socket
import subprocess
import sys
import urllib.parse
from typing import Any, Dict, List

from cosmos1.errors import ConfigError
from cosmos1.launch.jobs import Job, JobState, Record

ANSWER_S = 60
"""Seconds after which a cluster's client program counts as hanging."""


class Executor:
    """Base of the executors: each turns a job into texts, and the texts into running jobs."""

    supports_chain = False
    supports_retries = False

    def check(self, job: Job) -> None:
        """Refuse what this executor cannot do, before anything is written."""
        name = type(self).__name__.lower()
        if (job.chain > 1 or job.dependency) and not self.supports_chain:
            raise ConfigError(
                f"--chain and --dependency need a queue that knows them; --executor {name} has none, slurm has"
            )
        if job.retries and not self.supports_retries:
            raise ConfigError(f"--retries has no effect with --executor {name}; leave it away")

    def require(self, profile: Dict[str, Any]) -> None:
        """Refuse within 5 seconds when a program, an account or a service is missing; says what to install or do."""
        raise NotImplementedError

    def texts(self, job: Job) -> Dict[str, str]:
        """Every file and command of this job by its title, exactly as they will be used."""
        raise NotImplementedError

    def submit(self, job: Job) -> List[str]:
        """Start the job; returns the names under which the executor knows it."""
        raise NotImplementedError

    def states(self, record: Record) -> List[JobState]:
        raise NotImplementedError

    def logs(self, record: Record, follow: bool) -> None:
        """Print what the job wrote; with ``follow`` until it ends."""
        raise NotImplementedError

    def cancel(self, record: Record) -> None:
        """SIGTERM, so that the run saves and stops, then the end."""
        raise NotImplementedError


def require_program(name: str, remedy: str) -> None:
    if shutil.which(name) is None:
        raise ConfigError(f"{name} is not installed or not in PATH; {remedy}")


def require_reachable(url: str) -> None:
    address = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=4).close()
    except OSError as error:
        raise ConfigError(
            f"{url} cannot be reached from here: {error}; check the network, the proxy and the address"
        ) from error


def call(command: List[str], doing: str, stdin: str = "") -> str:
    """The output of a client program; its failure becomes a ConfigError with its last lines."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{doing}: {command[0]} has not answered for {ANSWER_S} s; is the service reachable?"
        ) from error
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())[-500:]
        raise ConfigError(f"{doing}: {command[0]} ended with status {done.returncode}: {reason}")
    return done.stdout


def show(command: List[str]) -> int:
    """Let a client program print to this terminal."""
    sys.stdout.flush()
    return subprocess.run(command).returncode


def yaml_text(value: Any) -> str:
    """YAML in which scripts stay readable blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=1000)
