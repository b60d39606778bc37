# SPDX-License-Identifier: Apache-2.0
"""sbatch, through NeMo-Run's SlurmExecutor, here or over ssh; state, logs and cancelling by Slurm's own programs.

NeMo-Run's own view is not used after the submission: it takes a preempted job that Slurm runs again for a failed one.
"""

import codecs
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List

from cosmos1.errors import ConfigError
from cosmos1.launch.executors import nemo
from cosmos1.launch.executors.base import Executor, call_bytes, require_program
from cosmos1.launch.jobs import UNKNOWN, Job, JobLost, JobState, Record, find_record, launches_dir, node_script

LOGIN_NODE = "call this on a login node of the cluster, or give host, user, job_dir and workdir in the profile"
CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")
CLUSTER_ANSWER_S = 2.5
"""Without a configuration Slurm's programs search the network for a cluster, for longer than a user should wait."""
POLL_S = 2.0
POLLS_UNTIL_LOST = 30
"""Slurm may know nothing of a job for a minute, while its controller or its accounting starts again."""
# The port depends on the job, because jobs may share a node.
RENDEZVOUS = [
    '--nnodes="$SLURM_NNODES"',
    "--rdzv_backend=c10d",
    '--rdzv_endpoint="$HEAD_NODE_IP:$((29500 + SLURM_JOB_ID % 1000))"',
    '--rdzv_id="$SLURM_JOB_ID"',
]


class Slurm(Executor):
    supports_chain = True
    supports_retries = True

    def require(self, profile: Dict[str, Any]) -> None:
        if profile["host"]:
            require_program("ssh", "install openssh-client, which reaches the login node")
            require_program("rsync", "install rsync, which carries the scripts to the login node")
        else:
            for program in ("sbatch", "scontrol"):
                require_program(program, LOGIN_NODE)

    def check(self, job: Job) -> None:
        super().check(job)
        profile = job.profile
        paths = {"job_dir": profile.job_dir} if profile.host else {"NEMORUN_HOME": str(launches_dir().parent)}
        if profile.container_image:
            paths["workdir"] = profile.workdir or os.getcwd()
        for name, path in paths.items():
            if any(letter.isspace() for letter in path):
                raise ConfigError(f'{name} is "{path}"; Slurm\'s scripts take no path with a space, so choose another')

    def texts(self, job: Job) -> Dict[str, str]:
        with _experiment(job) as experiment:
            scripts = nemo.prepared_files(experiment, [f"{name}_sbatch.sh" for name in job.task_names])
        titles = [f"sbatch script of {name}" for name in job.task_names]
        titles[1:] = [
            f"{title}, submitted with --dependency=afterany:NUMBER_OF_{before}"
            for title, before in zip(titles[1:], job.task_names)
        ]
        return {"node script": node_script(job, RENDEZVOUS)} | dict(zip(titles, scripts))

    def submit(self, job: Job) -> List[str]:
        if not job.profile.host:
            _require_cluster()
        with _experiment(job) as experiment:
            try:
                return nemo.run_detached(experiment)
            except Exception as error:
                if "sbatch" not in str(error):
                    raise
                reason = " ".join(line for line in str(error).splitlines() if line.startswith("sbatch:"))
                raise ConfigError(f"Slurm refused the job: {reason or error}") from error

    def states(self, record: Record) -> List[JobState]:
        queued = dict(line.split("|") for line in _slurm(record, ["squeue", "--noheader", "--format=%A|%T"]))
        ended = {}
        if any(job not in queued for job in record.jobs):
            ended = _ended_states(record)
        return [
            JobState(job, queued[job], False) if job in queued else ended.get(job, JobState(job, UNKNOWN, False))
            for job in record.jobs
        ]

    def logs(self, record: Record, follow: bool) -> None:
        """Print the logs of all jobs and restarts in their order.

        Raises:
            JobLost: followed jobs that Slurm has not known for ``POLLS_UNTIL_LOST`` polls.
        """
        shown: Dict[str, int] = defaultdict(int)
        decoders = defaultdict(lambda: codecs.getincrementaldecoder("utf-8")(errors="replace"))
        polls_without_answer = 0
        while True:
            states = self.states(record)
            waited_for = [state for state in states if not state.finished]
            for path in _on_cluster(record, f"ls -1tr {_files(record, 'log-*')} 2>/dev/null || true").splitlines():
                written = _bytes_on_cluster(record, f"tail -c +{shown[path] + 1} {shlex.quote(path)}")
                shown[path] += len(written)
                sys.stdout.write(decoders[path].decode(written))  # a character may be half written by now
            sys.stdout.flush()
            if not waited_for or not follow:
                _show_reasons(record, states)
                return
            is_known = any(state.state != UNKNOWN for state in waited_for)
            polls_without_answer = 0 if is_known else polls_without_answer + 1
            if polls_without_answer == POLLS_UNTIL_LOST:
                raise _lost(record, [state.job for state in waited_for])
            time.sleep(POLL_S)

    def cancel(self, record: Record) -> None:
        _on_cluster(record, shlex.join(["scancel", *record.jobs]))


def _require_cluster() -> None:
    """Refuse where Slurm's programs are installed, but no cluster stands behind them. One that is slow to answer, because its
    first controller is down, is no such case."""
    try:
        done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=CLUSTER_ANSWER_S)
    except subprocess.TimeoutExpired:
        if any(file and Path(file).exists() for file in (os.environ.get("SLURM_CONF"), *CONFIGURATIONS)):
            return
        reason = f"scontrol ping has not answered in {CLUSTER_ANSWER_S} s, and no configuration is at one of the usual places"
    else:
        if done.returncode == 0 or " UP" in done.stdout:
            return
        reason = (done.stderr or done.stdout).strip().rpartition("\n")[2] or f"scontrol ping: status {done.returncode}"
    raise ConfigError(
        f"sbatch is installed, but there is no cluster behind it ({reason}); {LOGIN_NODE}; or set SLURM_CONF=FILE"
    )


def _experiment(job: Job):
    return nemo.experiment_of(job, node_script(job, RENDEZVOUS), lambda index: slurm_executor(job, index))


def slurm_executor(job: Job, index: int) -> Any:
    """NeMo-Run's executor for one job of the chain.

    SIGTERM comes ``save_seconds`` before the time limit (Slurm may send it a minute early); torchrun then ends with
    status 1 although the run has saved, so that a retry, or the next job of the chain, goes on.
    """
    import nemo_run as run

    profile = job.profile
    options = {"kill_on_invalid_dep": "yes"} | profile.options
    if index == 0 and job.dependency:
        options["dependency"] = _dependency(job.dependency)
    fields: Dict[str, Any] = {
        name: getattr(profile, name)
        for name in ("account", "partition", "time", "nodes", "qos", "constraint", "mem", "cpus_per_task")
    }
    if profile.container_image:
        workdir = profile.workdir or str(Path.cwd())
        mounts = [f"{workdir}:{workdir}", *profile.mounts]
        fields |= {"container_image": profile.container_image, "container_mounts": mounts}
        fields["container_env"] = profile.secrets
    return run.SlurmExecutor(
        **fields,
        gpus_per_node=profile.gpus_per_node or None,
        exclusive=profile.exclusive or None,
        job_name_prefix="cosmos1.",
        signal=f"TERM@{profile.save_seconds}",
        additional_parameters=options,
        # --wait: when one node is done, the others get as long to save
        srun_args=[f"--wait={profile.save_seconds}"],
        # NeMo-Run writes the first unquoted, so that the batch shell expands it; a node may have several addresses. It also
        # asks Slurm for unbuffered output, a pseudo-terminal that ends in the log, where no bar should be drawn.
        env_vars={"HEAD_NODE_IP": "${head_node_ip%% *}", "TERM": "dumb"},
        retries=job.retries,
        dependency_type="afterany",
        packager=run.Packager(),
        tunnel=_tunnel(profile),
        poll_estimated_start_time=False,
    )


def _tunnel(profile: Any) -> Any:
    import nemo_run as run

    if profile.host:
        return run.SSHTunnel(host=profile.host, user=profile.user, job_dir=profile.job_dir, identity=profile.identity)
    return run.LocalTunnel(job_dir="")


def _dependency(text: str) -> str:
    """What --dependency takes: a number of Slurm, the id or name of a launch, or a condition as afterany:123."""
    if ":" in text:
        return text
    if text.isdigit():
        return f"afterok:{text}"
    record = find_record(text)
    if record.executor != "slurm":
        raise ConfigError(
            f"--dependency {text} was launched with {record.executor}; Slurm can wait for Slurm jobs only"
        )
    return f"afterok:{record.jobs[-1]}"


def _ended_states(record: Record) -> Dict[str, JobState]:
    """States of jobs that have left the queue, by accounting, or by the controller's memory where there is none."""
    jobs = ",".join(record.jobs)
    lines = _slurm(
        record, ["sacct", "-X", "--noheader", "--parsable2", "--format=JobIDRaw,State,ExitCode", f"--jobs={jobs}"]
    )
    if not lines:
        show_jobs = "; ".join(f"scontrol show job --oneliner {job}" for job in record.jobs)
        facts = [dict(word.split("=", 1) for word in line.split() if "=" in word)
                 for line in _on_cluster(record, f"({show_jobs}) 2>/dev/null || true").splitlines()]  # fmt: skip
        lines = [f"{fact['JobId']}|{fact['JobState']}|{fact['ExitCode']}" for fact in facts if "JobId" in fact]
    return {job: _ended(job, state, code) for job, state, code in (line.split("|") for line in lines)}


def _ended(job: str, state: str, code: str) -> JobState:
    """Slurm's exit code is status:signal. A preempted job that runs again is still in the queue."""
    word = state.split()[0]
    finished = word not in ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "SUSPENDED", "RESIZING")
    status = int(code.partition(":")[0])
    return JobState(job, state, finished, 0 if word == "COMPLETED" else status or 1)


def _lost(record: Record, jobs: List[str]) -> JobLost:
    return JobLost(
        f"Slurm has known nothing of job {', '.join(jobs)} of {record.id} for {POLLS_UNTIL_LOST * POLL_S:.0f} s: its "
        "controller does not answer (try: scontrol ping), or the job has been removed from its accounting. The run's "
        "folder, below log.log_dir, tells how far it came"
    )


def _slurm(record: Record, command: List[str]) -> List[str]:
    """Lines of a query; none when Slurm knows nothing to answer."""
    return _on_cluster(record, shlex.join(command) + " 2>/dev/null || true").split("\n")[:-1]


def _show_reasons(record: Record, states: List[JobState]) -> None:
    """What Slurm itself wrote about jobs that failed; the recipe's output does not tell of a memory limit or a lost node."""
    failed = [_files(record, f"sbatch_*_{state.job}") for state in states if state.finished and state.exit_status]
    if failed:
        words = "^(srun|slurmstepd|sbatch): "
        sys.stdout.write(_on_cluster(record, f"grep -hE {shlex.quote(words)} {' '.join(failed)} 2>/dev/null || true"))
        sys.stdout.flush()


def _on_cluster(record: Record, script: str) -> str:
    return _bytes_on_cluster(record, script).decode(errors="replace")


def _bytes_on_cluster(record: Record, script: str) -> bytes:
    profile = record.profile
    if profile["host"]:
        identity = ["-i", profile["identity"]] if profile["identity"] else []
        command = ["ssh", "-o", "BatchMode=yes", *identity, f"{profile['user']}@{profile['host']}", script]
    else:
        command = ["bash", "-c", script]
    return call_bytes(command, f"asking Slurm for {record.id}")


def _files(record: Record, pattern: str) -> str:
    """Files in the folders of the launch, for a shell; ``pattern`` is the stem of their names."""
    base = record.profile["job_dir"] if record.profile["host"] else launches_dir().parent / "experiments"
    return f"{shlex.quote(f'{base}/{record.name}/{record.id}')}/*/{pattern}.out"
