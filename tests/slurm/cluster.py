# SPDX-License-Identifier: Apache-2.0
"""A real Slurm cluster of two nodes on this machine, with accounting, without an init system, cgroups or GPUs.

    python -m tests.slurm.cluster install     # as root on Debian or Ubuntu: the packages
    python -m tests.slurm.cluster run pytest tests/slurm

All state is in one temporary folder; leaving the cluster ends every process that it started.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = ["munge", "slurm-wlm", "slurmdbd", "mariadb-server"]
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd", "mariadb-install-db"]
NODES = ("n1", "n2")
STEP_LIMIT_S = 30  # any one daemon may take this long to answer

# Times are short, so that tests are. cred_expire is also how long a requeued job waits before it starts again.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=8
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=30
MessageTimeout=10
SlurmdTimeout=60
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.sock
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
DATABASE_SQL = "CREATE USER slurm@127.0.0.1 IDENTIFIED BY 'slurm';\nGRANT ALL ON slurm_acct.* TO slurm@127.0.0.1;\n"


class CannotStart(Exception):
    """Slurm is not installed, or a daemon did not come up."""


@contextlib.contextmanager
def running_cluster() -> Iterator[Path]:
    """Start the cluster and set SLURM_CONF; yields its folder, and ends everything afterwards.

    Raises:
        CannotStart: with what is missing, or the last lines of the logs.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise CannotStart(f"no {', '.join(missing)}; as root: python -m tests.slurm.cluster install")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    daemons: list[subprocess.Popen] = []
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a killed test run ends the cluster too
    try:
        start(folder, daemons)
        yield folder
    finally:
        configuration = os.environ["SLURM_CONF"]
        stop(daemons)
        signal.signal(signal.SIGTERM, before)
        left = processes_of(configuration)
        del os.environ["SLURM_CONF"]
        shutil.rmtree(folder, ignore_errors=True)
        assert not left, f"processes that outlived the cluster: {left}"


def start(folder: Path, daemons: list[subprocess.Popen]) -> None:
    ports = write_configuration(folder)

    def launch(name: str, *arguments: str) -> None:
        with open(folder / f"{name}.out", "a") as output:
            command = [name, *arguments]
            daemons.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            )

    def until(is_up: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + STEP_LIMIT_S
        while not is_up():
            if time.monotonic() > deadline:
                raise CannotStart(f"{what} does not answer\n{last_lines(folder)}")
            time.sleep(0.1)

    socket_path, key = folder / "munge.sock", folder / "munge.key"
    launch("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket_path}",
           f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed")  # fmt: skip
    until(lambda: succeeds("munge", "--no-input", f"--socket={socket_path}"), "munge")
    launch("mariadbd", "--no-defaults", f"--user={getpass.getuser()}", f"--datadir={folder}/db",
           f"--socket={folder}/db.sock", f"--pid-file={folder}/db.pid", "--bind-address=127.0.0.1",
           f"--port={ports['sql_port']}", f"--init-file={folder}/init.sql", "--skip-name-resolve",
           "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900")  # fmt: skip
    until(lambda: is_listening(ports["sql_port"]), "MariaDB")
    launch("slurmdbd", "-D")
    until(lambda: is_listening(ports["dbd_port"]) and succeeds("sacctmgr", "-iQ", "show", "cluster"), "slurmdbd")
    subprocess.run(["sacctmgr", "-iQ", "add", "cluster", "test"], capture_output=True, timeout=STEP_LIMIT_S)
    launch("slurmctld", "-D")
    for node in NODES:
        launch("slurmd", "-D", "-N", node)
    until(lambda: output_of("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * len(NODES), "Slurm")


def write_configuration(folder: Path) -> dict[str, int]:
    """All files that the daemons read; returns their ports."""
    ctld_port, dbd_port, sql_port, *node_ports = free_ports(3 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=1000000 State=UNKNOWN"
        for node, port in zip(NODES, node_ports)
    )
    ports = {"ctld_port": ctld_port, "dbd_port": dbd_port, "sql_port": sql_port}
    values = {"folder": folder, "user": getpass.getuser(), "host": host, "nodes": nodes, **ports}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    (folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
    (folder / "slurmdbd.conf").chmod(0o600)
    (folder / "init.sql").write_text(DATABASE_SQL)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "ctld").mkdir()
    for node in NODES:
        (folder / f"spool.{node}").mkdir()
    command = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/db", f"--user={getpass.getuser()}"]
    command += ["--skip-test-db", "--auth-root-authentication-method=normal"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return ports


def stop(daemons: list[subprocess.Popen]) -> None:
    """End the jobs, what they left, and the daemons, the last started first."""
    if daemons:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", f"--user={getpass.getuser()}"], capture_output=True, timeout=10)
            deadline = time.monotonic() + 15
            while output_of("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.2)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for process in processes_of(os.environ["SLURM_CONF"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while processes_of(os.environ["SLURM_CONF"]) and time.monotonic() < deadline:
        time.sleep(0.1)


def processes_of(configuration: str) -> list[int]:
    """Daemons, and step daemons and job processes that live on: all carry the cluster's SLURM_CONF."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={configuration}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def succeeds(*command: str) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, timeout=5).returncode == 0
    return False


def output_of(*command: str) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
    return ""


def last_lines(folder: Path) -> str:
    logs = sorted([*folder.glob("*.log"), *folder.glob("*.out")])
    return "\n".join(f"{log.name}: {' | '.join(log.read_text(errors='replace').splitlines()[-3:])}" for log in logs)


def install() -> None:
    """Packages alone: their own services stay stopped."""
    policy = Path("/usr/sbin/policy-rc.d")
    is_new = not policy.exists()
    if is_new:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
        subprocess.run(command, check=True, env=environment)
    finally:
        if is_new:
            policy.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["install"]:
        install()
    elif sys.argv[1:2] == ["run"] and sys.argv[2:]:
        with running_cluster():
            sys.exit(subprocess.run(sys.argv[2:]).returncode)
    else:
        sys.exit(__doc__)
