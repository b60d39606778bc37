# SPDX-License-Identifier: Apache-2.0
"""DGX Cloud and DGX Cloud Lepton, through NeMo-Run's executors."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, List

from cosmos1.errors import ConfigError
from cosmos1.launch.executors import nemo
from cosmos1.launch.executors.base import require_reachable, yaml_text
from cosmos1.launch.jobs import Job, node_script

LEPTON_GATEWAY = "https://gateway.dgxc-lepton.nvidia.com"
LEPTON_LOGINS = Path("~/.cache/lepton/workspace_info.yaml")
CLIENT_VARIABLES = ("DGXCLOUD_CLIENT_ID", "DGXCLOUD_CLIENT_SECRET")


class Lepton(nemo.NemoRunService):
    def require(self, profile: Dict[str, Any]) -> None:
        known = os.environ.get("LEPTON_WORKSPACE_ID") and os.environ.get("LEPTON_WORKSPACE_TOKEN")
        if not known and not LEPTON_LOGINS.expanduser().exists():
            raise ConfigError("Lepton does not know you; call: lep login, with the credentials of your workspace")
        require_reachable(os.environ.get("LEPTON_WORKSPACE_URL", LEPTON_GATEWAY))

    def texts(self, job: Job) -> Dict[str, str]:
        return {
            "node script": node_script(job, _lepton_rendezvous(job)),
            "NeMo-Run executor": _settings(lepton_executor(job)),
        }

    def submit(self, job: Job) -> List[str]:
        script = node_script(job, _lepton_rendezvous(job))
        with nemo.experiment_of(job, script, lambda index: lepton_executor(job)) as experiment:
            return nemo.run_detached(experiment)


def _lepton_rendezvous(job: Job) -> List[str]:
    return [
        f"--nnodes={job.profile.nodes}",
        "--node_rank=$NODE_RANK",
        "--master_addr=$MASTER_ADDR",
        "--master_port=$MASTER_PORT",
    ]


def lepton_executor(job: Job) -> Any:
    """Secrets are those of the workspace with the same name."""
    import nemo_run as run

    profile = job.profile
    return run.LeptonExecutor(
        container_image=profile.container_image,
        nemo_run_dir=profile.nemo_run_dir,
        nodes=profile.nodes,
        gpus_per_node=profile.gpus_per_node,
        nprocs_per_node=profile.num_processes,
        node_group=profile.node_group,
        resource_shape=profile.resource_shape,
        mounts=profile.mounts,
        image_pull_secrets=profile.image_pull_secrets,
        secret_vars={name: name for name in profile.secrets},
        packager=run.Packager(),
    )


class DGXCloud(nemo.NemoRunService):
    def require(self, profile: Dict[str, Any]) -> None:
        missing = [name for name in CLIENT_VARIABLES if not os.environ.get(name)]
        if missing:
            raise ConfigError(
                f"DGX Cloud needs {' and '.join(missing)} in the environment: an application of your project"
            )
        require_reachable(profile["base_url"])
        _take_credentials_from_environment()

    def texts(self, job: Job) -> Dict[str, str]:
        rendezvous = [f"--nnodes={job.profile.nodes}"]  # the rest is in the PET_* variables that the service sets
        return {"node script": node_script(job, rendezvous), "NeMo-Run executor": _settings(dgxcloud_executor(job))}

    def submit(self, job: Job) -> List[str]:
        script = node_script(job, [f"--nnodes={job.profile.nodes}"])
        with nemo.experiment_of(job, script, lambda index: dgxcloud_executor(job)) as experiment:
            return nemo.run_detached(experiment)


def dgxcloud_executor(job: Job) -> Any:
    """Secrets are keys of one credential; the client's own are looked up when a request is sent."""
    import nemo_run as run

    profile = job.profile
    references = [{"name": name, "secret": {"name": profile.secret, "key": name}} for name in profile.secrets]
    return run.DGXCloudExecutor(
        base_url=profile.base_url,
        kube_apiserver_url=profile.kube_apiserver_url,
        client_id=f"${CLIENT_VARIABLES[0]}",
        client_secret=f"${CLIENT_VARIABLES[1]}",
        project_name=profile.project_name,
        container_image=profile.container_image,
        pvc_nemo_run_dir=profile.pvc_nemo_run_dir,
        nodes=profile.nodes,
        gpus_per_node=profile.gpus_per_node,
        nprocs_per_node=profile.num_processes,
        pvcs=profile.pvcs,
        custom_spec={"environmentVariables": references},
        packager=run.Packager(),
    )


def _take_credentials_from_environment() -> None:
    """NeMo-Run stores its executors on disk, so they hold only the names of the credentials until a token is asked for."""
    from nemo_run.core.execution.dgxcloud import DGXCloudExecutor

    ask = DGXCloudExecutor.get_auth_token

    def get_auth_token(self: Any) -> Any:
        known = {"client_id": os.environ[CLIENT_VARIABLES[0]], "client_secret": os.environ[CLIENT_VARIABLES[1]]}
        return ask(dataclasses.replace(self, **known))

    DGXCloudExecutor.get_auth_token = get_auth_token


def _settings(executor: Any) -> str:
    """The fields of an executor that differ from NeMo-Run's defaults."""
    fields = {}
    for field in dataclasses.fields(executor):
        value = getattr(executor, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if field.init and value != default and field.name != "packager":
            fields[field.name] = value
    return yaml_text({type(executor).__name__: fields})
