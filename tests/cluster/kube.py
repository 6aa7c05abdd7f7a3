"""Check profiles/kubernetes as far as a machine without a cluster can: an API server that runs its jobs here.

    python tests/cluster/kube.py [--claim grounding_loss] [--folder FOLDER]

Snakemake, the executor plugin and the Kubernetes client are the real ones and speak HTTP to a small server of this
file. The server takes a manifest only if it fits the API's schema (the models that the official client was generated
with from the API's OpenAPI description: no unknown field, right types, required fields there) and the API's rules that
concern a job like ours. What a pod would run it runs as a process. The script starts the graph at gpu scale, looks at
the manifests and interrupts it; runs the smoke graph of one claim, kills a job, sees it run again with more memory; and
holds the ledger against that of a local run. No scheduler, no container, no volume and no GPU is involved. Prints what
it saw; exit status 1 if any of that is not so. It is no part of `make test`: it takes minutes.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml
from kubernetes import client
from kubernetes.utils import parse_quantity
from slurm import ROOT, _results, _wait, graph, same_ledger

PROFILE = ROOT / "profiles" / "kubernetes"
NAMESPACE = "candor"
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--claim", default="grounding_loss")
    arguments.add_argument("--folder", type=Path)
    given = arguments.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="candor-kubernetes-"))
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so its children
    seen = {"what a person applies fits the schema": applied()}
    with Cluster(folder, runs=False) as cluster:
        seen |= rendered_and_cancelled(cluster, folder / "gpu", given.claim)
    with Cluster(folder) as cluster:
        seen |= killed_and_retried(cluster, folder / "kubernetes", given.claim)
    seen["no server, no job: one sentence"] = unreachable(cluster, folder / "none", given.claim)
    command = graph(folder / "local", given.claim, "--cores", "2")
    subprocess.run(command, cwd=ROOT, env=_results(folder / "local"), check=True, capture_output=True)
    seen["the ledger is that of a local run"] = same_ledger(folder / "kubernetes", folder / "local")
    for sentence, held in seen.items():
        print(f"{'yes' if held else 'NO '}  {sentence}", flush=True)
    print(f"Logs, manifests and results: {folder}")
    return int(not all(seen.values()))


# --- The schema -------------------------------------------------------------------------------------


def fits(data: object, kind: str, where: str = ""):
    """`data` (from JSON) as the client's model `kind`, strictly; raises `ValueError` naming the first field amiss."""
    if inside := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(data, list):
            raise ValueError(f"{where} is no list")
        return [fits(item, inside[1], f"{where}[{i}]") for i, item in enumerate(data)]
    if inside := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(data, dict):
            raise ValueError(f"{where} is no map")
        return {key: fits(value, inside[1], f"{where}.{key}") for key, value in data.items()}
    if kind in ("str", "int", "bool", "float", "datetime", "object"):
        types = {"str": str, "int": int, "bool": bool, "float": (int, float), "datetime": str, "object": object}
        if not isinstance(data, types[kind]) or (kind == "int" and isinstance(data, bool)):
            raise ValueError(f"{where} is no {kind}")
        return datetime.fromisoformat(data) if kind == "datetime" else data
    model = getattr(client, kind)
    if not isinstance(data, dict):
        raise ValueError(f"{where} is no {kind}")
    names = {field: name for name, field in model.attribute_map.items()}
    if unknown := set(data) - set(names):
        raise ValueError(f"{where}.{sorted(unknown)[0]} is unknown to {kind}")
    parts = {
        names[field]: fits(value, model.openapi_types[names[field]], f"{where}.{field}")
        for field, value in data.items()
    }
    return model(**parts)  # raises ValueError where a required field is missing or a value is out of range


def check_job(data: dict) -> client.V1Job:
    """The job, if an API server would take it; else `ValueError`. The rules are those of the API's own validation."""
    job = fits(data, "V1Job", "job")
    pod = job.spec.template.spec
    if not LABEL.fullmatch(job.metadata.name):
        raise ValueError("metadata.name is no DNS label of at most 63 characters")
    if pod.restart_policy not in ("Never", "OnFailure"):
        raise ValueError("a job's restartPolicy is Never or OnFailure")
    if pod.active_deadline_seconds is not None and pod.active_deadline_seconds < 1:
        raise ValueError("activeDeadlineSeconds is less than 1")
    volumes = [volume.name for volume in pod.volumes or []]
    for container in pod.containers:
        if not container.image or not LABEL.fullmatch(container.name):
            raise ValueError("a container has no image, or a name that is no DNS label")
        mounts = [mount.mount_path for mount in container.volume_mounts or []]
        if len(set(mounts)) < len(mounts):
            raise ValueError("two volumes are mounted in one place")
        if lacking := {mount.name for mount in container.volume_mounts or []} - set(volumes):
            raise ValueError(f"volumeMounts name {lacking}, which is no volume")
        requests, limits = container.resources.requests or {}, container.resources.limits or {}
        for name in {**requests, **limits}:
            asked, limit = (parse_quantity(part[name]) if name in part else None for part in (requests, limits))
            if "/" in name and limit is None:
                raise ValueError(f"{name} must have a limit: it cannot be overcommitted")
            if "/" in name and ((asked is not None and asked != limit) or limit != int(limit)):
                raise ValueError(f"{name}: request and limit must be one whole number")
            if asked is not None and limit is not None and asked > limit:
                raise ValueError(f"{name}: the request is above the limit")
    return job


def applied() -> bool:
    """Whether the objects of profiles/kubernetes/candor.yaml fit, and the profile's volume is theirs."""
    objects = list(yaml.safe_load_all((PROFILE / "candor.yaml").read_text()))
    for data in objects:
        fits(data, {"RoleBinding": "V1RoleBinding", "Role": "V1Role"}.get(data["kind"], f"V1{data['kind']}"), "")
    claims = {data["metadata"]["name"] for data in objects if data["kind"] == "PersistentVolumeClaim"}
    volume = yaml.safe_load((PROFILE / "profile.yaml").read_text())["kubernetes-volume-persistent-volumes"]
    return volume.split(":")[0] in claims


# --- The server -------------------------------------------------------------------------------------


class Cluster:
    """An API server for jobs, pods and secrets of one namespace; `runs`: whether jobs run or wait for a node."""

    def __init__(self, folder: Path, runs: bool = True):
        self.folder, self.runs = folder, runs
        self.jobs: dict[str, dict] = {}  # those that are there, by name
        self.manifests: list[dict] = []  # all that were ever accepted
        self.refused: list[str] = []
        self.deleted: list[str] = []
        self.processes: dict[str, subprocess.Popen] = {}
        self.secrets: dict[str, dict] = {}
        self.lock = threading.Lock()

    def __enter__(self) -> Cluster:
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                url = urlsplit(self.path)
                with cluster.lock:
                    code, data = cluster.answer(self.command, url.path, parse_qs(url.query), body)
                content = data.encode() if isinstance(data, str) else json.dumps(data).encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/plain" if isinstance(data, str) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = self.folder / "kubeconfig"
        place = f"http://127.0.0.1:{self.server.server_port}"
        name = {"name": "candor"}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "candor",
                    "clusters": [{**name, "cluster": {"server": place}}],
                    "users": [{**name, "user": {}}],
                    "contexts": [{**name, "context": {"cluster": "candor", "user": "candor"}}],
                }
            )
        )
        return self

    def __exit__(self, *_) -> None:
        for name in list(self.processes):
            self._end(name)
        self.server.shutdown()
        self.server.server_close()

    def answer(self, verb: str, path: str, query: Mapping[str, list[str]], body: dict | None) -> tuple[int, dict | str]:
        batch, core = f"/apis/batch/v1/namespaces/{NAMESPACE}/", f"/api/v1/namespaces/{NAMESPACE}/"
        parts = path.removeprefix(batch).removeprefix(core).split("/")
        match verb, path.startswith(batch), parts:
            case "GET", True, ["jobs"]:
                return 200, {
                    "apiVersion": "batch/v1",
                    "kind": "JobList",
                    "metadata": {},
                    "items": [*self.jobs.values()],
                }
            case "POST", True, ["jobs"]:
                return self._create(body)
            case "GET", True, ["jobs", name, "status"] if name in self.jobs:
                return 200, self._look(name)
            case "DELETE", True, ["jobs", name] if name in self.jobs:
                self._end(name)
                del self.jobs[name]
                self.deleted.append(name)
                return 200, _status("Success", 200)
            case "GET", False, ["pods"]:
                name = query["labelSelector"][0].removeprefix("job-name=")
                return 200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": self._pods(name)}
            case "GET", False, ["pods", pod, "log"] if pod.removesuffix("-pod") in self.processes:
                if query.get("previous") == ["true"]:  # as a node answers where a container was not restarted
                    return 400, _status(f'previous terminated container "snakemake" in pod "{pod}" not found', 400)
                return 200, (self.folder / f"{pod}.log").read_text()
            case "DELETE", False, ["pods", pod] if pod.removesuffix("-pod") in self.processes:
                self._end(pod.removesuffix("-pod"))
                return 200, _status("Success", 200)
            case "POST", False, ["secrets"]:
                secret = fits(body, "V1Secret", "secret")
                self.secrets[secret.metadata.name] = secret.data
                return 201, body
            case "DELETE", False, ["secrets", name] if name in self.secrets:
                del self.secrets[name]
                return 200, _status("Success", 200)
        return 404, _status(f"{path} not found", 404)

    def _create(self, body: dict) -> tuple[int, dict]:
        try:
            job = check_job(body)
        except ValueError as error:
            self.refused.append(str(error))
            return 422, _status(str(error), 422)
        self.manifests.append(body)
        (self.folder / f"{job.metadata.name}.json").write_text(json.dumps(body, indent=1))
        self.jobs[job.metadata.name] = {**body, "status": {}}
        if self.runs:
            self._run(job)
        return 201, body

    def _run(self, job: client.V1Job) -> None:
        [container] = job.spec.template.spec.containers
        name = job.metadata.name
        # What an image brings; the rest comes from the manifest.
        environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environment |= {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
        for variable in container.env or []:
            key = variable.value_from.secret_key_ref
            environment[variable.name] = base64.b64decode(self.secrets[key.name][key.key]).decode()
        with (self.folder / f"{name}-pod.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [*container.command, *container.args],
                cwd=tempfile.mkdtemp(dir=self.folder),  # the empty folder that the manifest mounts as /workdir
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self.processes.get(name)
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _code(self, name: str) -> int | None:
        """Exit code of a job's container, None while it runs or waits; 128 and the signal if it was killed."""
        process = self.processes.get(name)
        code = process.poll() if process else None
        return 128 - code if code is not None and code < 0 else code

    def _look(self, name: str) -> dict:
        code = self._code(name)
        status = {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}
        return {**self.jobs[name], "status": status}

    def _pods(self, name: str) -> list[dict]:
        if name not in self.processes:
            return []
        code = self._code(name)
        terminated = {"exitCode": code, "reason": "Error" if code else "Completed"}
        state = {"running": {}} if code is None else {"terminated": terminated}
        about = {
            "name": "snakemake",
            "image": "candor",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        pod = {"metadata": {"name": f"{name}-pod"}, "status": {"containerStatuses": [{**about, "state": state}]}}
        return [{"apiVersion": "v1", "kind": "Pod", "spec": self.jobs[name]["spec"]["template"]["spec"], **pod}]


def _status(message: str, code: int) -> dict:
    return {"apiVersion": "v1", "kind": "Status", "metadata": {}, "message": message, "code": code}


# --- What is checked --------------------------------------------------------------------------------


def rendered_and_cancelled(cluster: Cluster, results: Path, claim: str) -> dict[str, bool]:
    """Starts the graph at gpu scale where no job ever gets a node, reads the manifests, interrupts the graph."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(PROFILE), "--nocolor"]
    # No weights are here: they would be on the volume.
    command += ["--config", "scale=gpu", "batch=1", f"claim={claim}", "preflight=false"]
    with _started(cluster, results, command) as process:
        _wait(lambda: process.poll() is not None or len(_gpus(cluster)) > 1, 1800, "No job with a GPU was sent.")
        time.sleep(5)
        process.send_signal(signal.SIGINT)
        process.wait(600)
    print(f"{len(cluster.manifests)} manifests at gpu scale, GPUs asked: {_gpus(cluster)}", flush=True)
    for limits in {str(_limits(data)) for data in cluster.manifests}:
        print(f"  {limits}", flush=True)
    pods = [data["spec"]["template"]["spec"] for data in cluster.manifests]
    first = [pod["containers"][0] for pod in pods]
    return {
        "every manifest fits the schema and the API's rules": bool(first) and not cluster.refused,
        "jobs with a GPU ask for one and tolerate its nodes, the others for none": len(_gpus(cluster)) > 1
        and all(bool(_gpu(data)) == ("tolerations" in pod) for data, pod in zip(cluster.manifests, pods)),
        "memory and time are the Snakefile's": {
            (part["resources"]["limits"]["memory"], pod["activeDeadlineSeconds"], _gpu(data))
            for part, pod, data in zip(first, pods, cluster.manifests)
        }
        <= {("64000M", 86400, "1"), ("2000M", 7200, None)},
        "the volume is mounted": all(
            {"name": "candor", "mountPath": "/volume"} in part["volumeMounts"] for part in first
        ),
        "an interrupted graph leaves no job behind": not cluster.jobs
        and len(cluster.deleted) == len(cluster.manifests),
    }


def killed_and_retried(cluster: Cluster, results: Path, claim: str) -> dict[str, bool]:
    """Runs the smoke graph, kills the first job that trains, and looks at what the graph did about it."""
    import psutil

    more = ("--jobs", "2", "--envvars", "CANDOR_RESULTS", "--latency-wait", "5")
    volumes = ("--kubernetes-volume-persistent-volumes", f"candor:{ROOT}", f"results:{results}")
    command = graph(results, claim, "--workflow-profile", str(PROFILE), *more, *volumes)
    killed = []
    with _started(cluster, results, command) as process:
        while process.poll() is None:
            for name, pod in [] if killed else list(cluster.processes.items()):
                if pod.poll() is None and "steps" in _family(psutil.Process(pod.pid)):
                    time.sleep(8)  # so that it trains, not only starts
                    killed.append(name)
                    os.killpg(pod.pid, signal.SIGKILL)
            time.sleep(1)
    memory = [
        d["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] for d in cluster.manifests
    ]
    made = list((results / "smoke" / "steps").rglob("run.json"))
    print(f"{len(memory)} jobs ran {len(made)} steps; memory asked: {sorted(set(memory))}", flush=True)
    log = (results / "snakemake.log").read_text()
    return {
        "the smoke graph went through the API": process.returncode == 0 and len(memory) > 1 and not cluster.refused,
        "a killed job ran again": bool(killed) and "Trying to restart" in log,
        "... with more memory": sorted(set(memory)) == ["2000M", "4000M"],
        "finished jobs and the secret are deleted": not cluster.jobs and not cluster.secrets,
    }


def unreachable(cluster: Cluster, results: Path, claim: str) -> bool:
    """Whether a graph says so in one sentence, and fails, where the API server is gone."""
    with _started(cluster, results, graph(results, claim, "--workflow-profile", str(PROFILE))) as process:
        process.wait(1800)
    log = (results / "snakemake.log").read_text()
    print(next((line for line in log.splitlines() if "API server" in line), "nothing was said"), flush=True)
    return bool(process.returncode) and "does not answer" in log and "Traceback" not in log


# --- Helpers ----------------------------------------------------------------------------------------


@contextmanager
def _started(cluster: Cluster, results: Path, command: list[str]):
    results.mkdir(parents=True, exist_ok=True)
    environment = _results(results, {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)})
    with (results / "snakemake.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _limits(data: dict) -> dict[str, str]:
    return data["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def _gpu(data: dict) -> str | None:
    return _limits(data).get("nvidia.com/gpu")


def _gpus(cluster: Cluster) -> set[str | None]:
    return {_gpu(data) for data in list(cluster.manifests)}


def _family(process) -> str:
    try:
        return " ".join(" ".join(child.cmdline()[1:4]) for child in process.children(recursive=True))
    except Exception:  # it has ended meanwhile
        return ""


if __name__ == "__main__":
    sys.exit(main())
