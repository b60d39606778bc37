# SPDX-License-Identifier: Apache-2.0
"""Where and how a job runs: one dataclass per executor. Its fields are the keys of a profile file."""

import os
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional, Tuple

from cosmos1.errors import ConfigError

SECRET_NAME = r"(?:\w+[_-])?(?:TOKEN|API[_-]?KEY|SECRET(?:[_-]\w+)?|\w*PASSWORD\w*)"
"""Pattern of names whose values are secrets: HF_TOKEN, wandb_api_key; not num_tokens, TOKENIZERS_PARALLELISM."""
IMAGE_WORKDIR = "/opt/cosmos-posttraining"
"""Where the image of containers/Dockerfile holds this repository."""


@dataclass
class Profile:
    """What every executor takes."""

    executor: ClassVar[str]
    one_machine: ClassVar[bool] = False
    needed: ClassVar[Tuple[str, ...]] = ()
    """Fields without which the executor cannot work."""
    nodes: int = 1
    gpus_per_node: int = 0
    """0 asks for no GPU."""
    processes_per_node: Optional[int] = None
    """Default: one per GPU, or one."""
    workdir: str = ""
    """Folder in which the recipe starts, as seen on the node; default: the current one."""
    setup: List[str] = field(default_factory=list)
    """Shell lines before the recipe, for example ". .venv/bin/activate"."""
    env: Dict[str, str] = field(default_factory=dict)
    """Environment of the recipe. Written into scripts, so not for secrets."""
    secrets: List[str] = field(default_factory=lambda: ["HF_TOKEN", "WANDB_API_KEY"])
    """Names of environment variables that are handed on by name; their values are never written."""
    save_seconds: int = 180
    """Time a run gets to save its checkpoint between SIGTERM and its end."""

    @property
    def num_processes(self) -> int:
        """Processes per node."""
        return self.processes_per_node or self.gpus_per_node or 1

    def validate(self) -> None:
        for name, least in (("nodes", 1), ("save_seconds", 1), ("processes_per_node", 1), ("gpus_per_node", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} in the profile; it must be {least} or more")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ConfigError(
                    f'env "{name}" in the profile is no name of a variable; write NAME = "value", or --set \'env={{NAME: value}}\''
                )
            if re.fullmatch(SECRET_NAME, name, re.IGNORECASE):
                raise ConfigError(
                    f"env.{name} in the profile would be written into a script; export {name} in the shell that "
                    f'launches, and name it in secrets: secrets = ["{name}"]'
                )
        missing = [name for name in self.needed if not getattr(self, name)]
        if missing:
            raise ConfigError(
                f"--executor {self.executor} needs {', '.join(missing)} in its profile, or as --set {missing[0]}=..."
            )
        if self.one_machine and self.nodes != 1:
            raise ConfigError(
                f"nodes={self.nodes} with --executor {self.executor}, which is this machine alone; use nodes=1"
            )


@dataclass
class LocalProfile(Profile):
    """torchrun on this machine."""

    executor = "local"
    one_machine = True


@dataclass
class SlurmProfile(Profile):
    """sbatch, on this machine or through ssh; with pyxis when there is a container image."""

    executor = "slurm"
    account: Optional[str] = None
    partition: Optional[str] = None
    time: str = "04:00:00"
    qos: Optional[str] = None
    constraint: Optional[str] = None
    mem: Optional[str] = None
    cpus_per_task: Optional[int] = None
    exclusive: bool = False
    options: Dict[str, str] = field(default_factory=dict)
    """Other options of sbatch, for example {reservation = "night"}."""
    container_image: Optional[str] = None
    """For pyxis: a registry name or the path of a .sqsh file; without it the recipe runs on the node itself."""
    mounts: List[str] = field(default_factory=list)
    """source:target pairs for the container; the working folder is mounted in any case."""
    host: Optional[str] = None
    """Login node to submit from; default: this machine."""
    user: Optional[str] = None
    identity: Optional[str] = None
    """Private key file for ssh."""
    job_dir: Optional[str] = None
    """Folder on the cluster for scripts and logs; needed with host."""

    def __post_init__(self) -> None:
        if self.workdir and not self.host:  # the scripts start in folders of their own
            self.workdir = os.path.abspath(os.path.expanduser(self.workdir))

    def validate(self) -> None:
        super().validate()
        if self.host and not (self.user and self.job_dir and self.workdir):
            raise ConfigError(
                "host in the profile needs user, job_dir and workdir (a checkout on the cluster) beside it"
            )
        for name in ("job_dir", "workdir"):
            if self.host and not getattr(self, name).startswith("/"):
                raise ConfigError(f"{name}={getattr(self, name)} in the profile; with host it must start with /")


@dataclass
class DockerProfile(Profile):
    """``docker run`` on this machine."""

    executor = "docker"
    one_machine = True
    needed = ("container_image",)
    container_image: str = ""
    mounts: List[str] = field(default_factory=list)
    """source:target pairs; the current folder is mounted on workdir in any case."""
    workdir: str = "/workspace"
    shm_size: Optional[str] = None
    """Default: the shared memory of the host (--ipc=host)."""
    options: List[str] = field(default_factory=list)
    """Other options of docker run, for example ["--privileged"]."""


@dataclass
class SkypilotProfile(Profile):
    """A cluster that SkyPilot starts in a cloud or on Kubernetes, and takes down after the job."""

    executor = "skypilot"
    workdir: str = "."
    """SkyPilot copies the current folder to the nodes and starts there."""
    resources: Dict[str, Any] = field(default_factory=dict)
    """``resources`` of a SkyPilot task: infra, accelerators, use_spot, image_id, disk_size, ..."""
    file_mounts: Dict[str, str] = field(default_factory=dict)
    """Path on the nodes = path here or bucket."""
    rendezvous_port: int = 29500


@dataclass
class KubeflowProfile(Profile):
    """A TrainJob of Kubeflow Trainer (trainer.kubeflow.org/v1alpha1)."""

    executor = "kubeflow"
    needed = ("container_image",)
    container_image: str = ""
    """Holds this repository at workdir."""
    workdir: str = IMAGE_WORKDIR
    namespace: str = "default"
    runtime: str = "torch-distributed"
    """Name of a ClusterTrainingRuntime."""
    volumes: Dict[str, str] = field(default_factory=dict)
    """Persistent volume claim = mount path."""
    secret: str = "cosmos1"
    """Kubernetes secret that holds the variables of secrets under their names."""
    image_pull_secrets: List[str] = field(default_factory=list)


@dataclass
class LeptonProfile(Profile):
    """A batch job of DGX Cloud Lepton."""

    executor = "lepton"
    needed = ("container_image", "nemo_run_dir", "node_group", "resource_shape")
    container_image: str = ""
    """Holds this repository at workdir."""
    workdir: str = IMAGE_WORKDIR
    nemo_run_dir: str = ""
    """Folder on a mounted file system that receives the scripts of the job."""
    node_group: str = ""
    resource_shape: str = ""
    mounts: List[Any] = field(default_factory=list)
    """Tables with path and mount_path."""
    image_pull_secrets: List[str] = field(default_factory=list)


@dataclass
class DGXCloudProfile(Profile):
    """A training workload of DGX Cloud (Run:ai)."""

    executor = "dgxcloud"
    needed = ("base_url", "kube_apiserver_url", "project_name", "container_image", "pvc_nemo_run_dir")
    base_url: str = ""
    kube_apiserver_url: str = ""
    project_name: str = ""
    container_image: str = ""
    """Holds this repository at workdir."""
    workdir: str = IMAGE_WORKDIR
    pvc_nemo_run_dir: str = ""
    """Folder on a mounted volume that receives the scripts of the job."""
    pvcs: List[Any] = field(default_factory=list)
    """Volumes as the API takes them: tables with name, path, existingPvc, claimName, ..."""
    secret: str = "cosmos1"
    """Run:ai credential that holds the variables of secrets under their names."""


KINDS = (
    LocalProfile,
    SlurmProfile,
    DockerProfile,
    SkypilotProfile,
    KubeflowProfile,
    LeptonProfile,
    DGXCloudProfile,
)
PROFILES = {kind.executor: kind for kind in KINDS}
