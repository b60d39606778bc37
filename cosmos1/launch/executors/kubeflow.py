# SPDX-License-Identifier: Apache-2.0
"""A TrainJob of Kubeflow Trainer, through kubectl.

NeMo-Run's KubeflowExecutor is not used: it reads a kubeconfig while it is built, so that there is no dry run without a
cluster, and it needs a shared volume for a script that fits into the manifest.
"""

import json
from typing import Any, Dict, List

from cosmos1.errors import ConfigError
from cosmos1.launch.executors.base import Executor, ask, call, follow_logs, require_program, show, show_logs, yaml_text
from cosmos1.launch.jobs import UNKNOWN, Job, JobState, Record, node_script

LONGEST_NAME = 33
"""Pods add their own endings to the name of a TrainJob, and the whole may have 63 characters."""


class Kubeflow(Executor):
    def require(self, profile: Dict[str, Any]) -> None:
        require_program(
            "kubectl", "install it (https://kubernetes.io/docs/tasks/tools) and point KUBECONFIG at the cluster"
        )
        call(["kubectl", "version", "--request-timeout=4s"], "asking the Kubernetes cluster of KUBECONFIG")

    def texts(self, job: Job) -> Dict[str, str]:
        return {"kubectl create --filename=-": yaml_text(train_job(job))}

    def submit(self, job: Job) -> List[str]:
        call(["kubectl", "create", "--filename=-"], "creating the TrainJob", stdin=yaml_text(train_job(job)))
        return [train_job_name(job)]

    def states(self, record: Record) -> List[JobState]:
        command = ["kubectl", "get", "trainjob", record.jobs[0], *_namespace(record), "--output=json"]
        answer = ask(command, "asking for it", not_known="(notfound)")
        if answer is None:
            return [JobState(record.jobs[0], UNKNOWN, False)]
        conditions = json.loads(answer).get("status", {}).get("conditions", [])
        true = {condition["type"] for condition in conditions if condition["status"] == "True"}
        if true & {"Complete", "Failed"}:
            return [JobState(record.jobs[0], ", ".join(sorted(true)), True, int("Failed" in true))]
        return [JobState(record.jobs[0], ", ".join(sorted(true)) or "running", False)]

    def logs(self, record: Record, follow: bool) -> None:
        command = [
            "kubectl",
            "logs",
            *_namespace(record),
            f"--selector=jobset.sigs.k8s.io/jobset-name={record.jobs[0]}",
        ]
        command += ["--prefix", f"--max-log-requests={record.profile['nodes']}", "--tail=-1"]
        if follow:
            follow_logs([*command, "--follow"], lambda: self.is_over(record))
        else:
            show_logs(command, record)

    def cancel(self, record: Record) -> None:
        if show(["kubectl", "delete", "trainjob", record.jobs[0], *_namespace(record)]):
            raise ConfigError(f"kubectl could not delete {record.jobs[0]}")


def train_job_name(job: Job) -> str:
    stamp = job.id.rpartition("_")[2]
    return f"{job.name[: LONGEST_NAME - len(stamp) - 1].rstrip('-')}-{stamp}"


def train_job(job: Job) -> Dict[str, Any]:
    """The manifest. Secrets are keys of a Kubernetes secret; a key that it lacks is left out."""
    profile = job.profile
    rendezvous = [
        f"--nnodes={profile.nodes}",
        "--node_rank=$PET_NODE_RANK",
        "--master_addr=$PET_MASTER_ADDR",
        "--master_port=$PET_MASTER_PORT",
    ]
    references = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": profile.secret, "key": name, "optional": True}}}
        for name in profile.secrets
    ]
    trainer: Dict[str, Any] = {
        "image": profile.container_image,
        "numNodes": profile.nodes,
        "numProcPerNode": profile.num_processes,
        "command": ["bash", "-c", node_script(job, rendezvous)],
        "env": references,
    }
    if profile.gpus_per_node:
        gpus = {"nvidia.com/gpu": profile.gpus_per_node}
        trainer["resourcesPerNode"] = {"requests": gpus, "limits": dict(gpus)}
    spec: Dict[str, Any] = {"runtimeRef": {"name": profile.runtime}, "trainer": trainer}
    pods = _pod_settings(profile)
    if pods:
        spec["podTemplateOverrides"] = [{"targetJobs": [{"name": "node"}], "spec": pods}]
    metadata = {"name": train_job_name(job), "namespace": profile.namespace}
    return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def _pod_settings(profile) -> Dict[str, Any]:
    pods: Dict[str, Any] = {}
    if profile.volumes:
        mounts = [{"name": claim, "mountPath": path} for claim, path in profile.volumes.items()]
        pods["volumes"] = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in profile.volumes]
        pods["containers"] = [{"name": "node", "volumeMounts": mounts}]
    if profile.image_pull_secrets:
        pods["imagePullSecrets"] = [{"name": name} for name in profile.image_pull_secrets]
    return pods


def _namespace(record: Record) -> List[str]:
    return [f"--namespace={record.profile['namespace']}"]
