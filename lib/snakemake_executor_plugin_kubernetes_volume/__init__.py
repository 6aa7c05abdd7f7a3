"""Snakemake's Kubernetes executor for pods that share a volume with whoever starts the graph.

`snakemake --executor kubernetes-volume` is snakemake-executor-plugin-kubernetes 0.5.1, whose settings, manifests,
secrets and deletion it uses, but for what a graph of long training runs needs and that executor does not do:

- It assumes that nothing is shared, copies every input and output through a storage provider that each pod installs
  from the network, and cannot see what a job leaves beside its declared output. Here the checkout with its results is
  a volume, mounted in every pod where it is mounted for the graph (`--kubernetes-volume-persistent-volumes`).
- It asks for `nvidia.com/gpu: 0` and a GPU node for a job whose resource `gpu` is 0. Here that job asks for none.
- It ignores `runtime`. Here it is the pod's deadline, which counts from its start, not from its submission.
- It asks for the log of a container's previous life, which an API server refuses for a pod that is not restarted, and
  then ends the whole graph; after any other failed request it forgets the job and waits for ever. Here a failed job is
  reported, so that it can be tried again, and a job whose state could not be read is asked for again.
- It keeps an empty secret for a graph that hands on no environment variables. Here there is none.
- A graph cancelled while it looks at its jobs leaves them running. Here looking ends first; then they are deleted.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import kubernetes.client
import kubernetes.config
import snakemake_executor_plugin_kubernetes as plugin
from snakemake_executor_plugin_kubernetes import ExecutorSettings
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from urllib3.exceptions import HTTPError

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = replace(
    plugin.common_settings,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)
KEPT = 24 * 3600  # seconds for which a finished job stays if nobody is left to delete it
ACCELERATORS = ("nvidia.com/gpu", "amd.com/gpu")


def connect() -> None:
    """Reads kubeconfig, or inside a cluster the service account; raises `ConfigException` where there is neither."""
    try:
        kubernetes.config.load_kube_config()
    except kubernetes.config.ConfigException:
        kubernetes.config.load_incluster_config()


def complete(body: kubernetes.client.V1Job, resources: Mapping[str, object]) -> kubernetes.client.V1Job:
    """The plugin's manifest with the job's time (resource `runtime`, minutes), and without GPUs where it needs none."""
    body.spec.ttl_seconds_after_finished = KEPT
    pod = body.spec.template.spec
    if resources.get("runtime"):
        pod.active_deadline_seconds = 60 * int(resources["runtime"])
    if not resources.get("gpu"):
        pod.tolerations = None
        for asked in (pod.containers[0].resources.requests, pod.containers[0].resources.limits):
            for name in ACCELERATORS:
                (asked or {}).pop(name, None)
    return body


class Executor(plugin.Executor):
    """As the module says."""

    def __post_init__(self):
        self._job = None  # the one that is being submitted
        namespace = self.workflow.executor_settings.namespace
        try:
            connect()
            # With this one may see jobs; whether one may create them is asked of the first.
            kubernetes.client.BatchV1Api().list_namespaced_job(namespace, limit=1, _request_timeout=30)
        except kubernetes.config.ConfigException:
            raise WorkflowError(
                "There is no cluster to send jobs to: start the graph in a pod of the cluster, or name a kubeconfig "
                "file in KUBECONFIG."
            ) from None
        except kubernetes.client.ApiException as error:
            raise WorkflowError(
                f"The cluster refuses to list jobs in namespace {namespace} ({error.reason}): check the namespace and "
                "the rights in profiles/kubernetes/candor.yaml."
            ) from None
        except HTTPError as error:
            host = kubernetes.client.Configuration.get_default_copy().host
            raise WorkflowError(
                f"The cluster's API server {host} does not answer ({type(error).__name__}): check the network and the "
                "kubeconfig."
            ) from None
        super().__post_init__()
        self._connect()

    def _connect(self) -> None:
        connect()
        self.kubeapi, self.batchapi = kubernetes.client.CoreV1Api(), kubernetes.client.BatchV1Api()
        create = self.batchapi.create_namespaced_job
        self.batchapi.create_namespaced_job = lambda namespace, body: create(
            namespace, complete(body, self._job.resources)
        )

    def _reauthenticate_and_retry(self, func=None):
        self._connect()
        return func() if func else None

    def register_secret(self) -> None:
        if self.envvars():
            super().register_secret()

    def unregister_secret(self) -> None:
        if self.secret_envvars:
            super().unregister_secret()

    def get_job_exec_prefix(self, job) -> str:
        return f"cd {shlex.quote(str(self.workflow.workdir_init))}"

    def run_job(self, job) -> None:
        self._job = job
        super().run_job(job)

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        for job in active_jobs:
            async with self.status_rate_limiter:
                try:
                    ended = self._ended(job.external_jobid)
                except kubernetes.client.ApiException as error:
                    if error.status == 401:
                        self._connect()
                    if error.status != 404:
                        self.logger.warning(f"{job.external_jobid}: {error.reason}; asking again.")
                        yield job
                        continue
                    ended = "It was deleted by somebody else."
                except (HTTPError, WorkflowError) as error:
                    self.logger.warning(f"{job.external_jobid}: {error}; asking again.")
                    yield job
                    continue
            if ended is None:
                yield job
                continue
            if ended:
                log = self.log_path / f"{job.external_jobid}.log"
                self.report_job_error(job, msg=f"{ended} ", aux_logs=[str(log)] if log.exists() else [])
            else:
                self.report_job_success(job)
            if not self.workflow.executor_settings.omit_job_cleanup:
                self.cancel_jobs([job])

    def _ended(self, name: str) -> str | None:
        """None while a job runs, "" if it succeeded, else why it failed; its pod's output is kept if it failed."""
        status = self.batchapi.read_namespaced_job_status(name, self.namespace).status
        pods = self.kubeapi.list_namespaced_pod(self.namespace, label_selector=f"job-name={name}").items
        # A container that a cluster puts beside ours may keep the job going after ours has ended.
        ours = [
            container.state.terminated
            for pod in pods
            for container in pod.status.container_statuses or []
            if container.name == "snakemake" and container.state.terminated
        ]
        if status.succeeded or (ours and not ours[0].exit_code):
            return ""
        if not status.failed and not ours:
            return None
        for pod in pods:
            try:
                text = self.kubeapi.read_namespaced_pod_log(pod.metadata.name, self.namespace, container="snakemake")
                (self.log_path / f"{name}.log").write_text(text)
            except kubernetes.client.ApiException:  # the node may be gone, and the log with it
                continue
        if ours:
            return f"Its container ended with code {ours[0].exit_code} ({ours[0].reason})."
        reasons = [pod.status.reason for pod in pods if pod.status.reason]
        reasons += [condition.reason for condition in status.conditions or [] if condition.reason]
        return f"It failed ({', '.join(reasons) or 'no reason given'})."

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        for job in active_jobs:
            try:  # at once: the plugin's way waits five minutes for each where the server is away
                self.safe_delete_job(job.external_jobid)
            except (HTTPError, kubernetes.client.ApiException) as error:
                self.logger.warning(f"{job.external_jobid} could not be deleted ({error}): use kubectl delete job.")

    def cancel(self) -> None:
        with self.lock:
            self.wait = False
        self.wait_thread.join()  # jobs that are being looked at come back to the list
        super().cancel()
