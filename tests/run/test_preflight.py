"""What is asked before the first job: memory, GPUs, models and their names, a network, Slurm, a cluster."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from candor.core import settings as config
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.language_models import needs
from candor.run import fetch, preflight
from candor.run import plan as graph
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def laptop():
    return graph.plan("laptop", "grounding_loss")


@pytest.fixture
def tiny(tmp_path):
    """A folder with a model of 3,000,000 parameters."""
    save_file(
        {"a": np.zeros((1000, 2000), np.float16), "b": np.zeros(1_000_000, np.float16)}, tmp_path / "m.safetensors"
    )
    return str(tmp_path)


def sentences(lacks: list[str]) -> list[str]:
    for line in lacks:
        assert "\n" not in line and line.endswith((".", ". ", "..."))
    return lacks


# --- Memory -----------------------------------------------------------------------------------------


def test_memory_is_asked_for_the_processes_that_run_at_once(laptop):
    each = preflight.PROCESS
    assert 0 <= each - json.loads((graph.REFERENCE / "provenance.json").read_text())["peak_memory_mb"] < 500
    assert preflight.memory(laptop, 4, 4 * each) == []
    [line] = sentences(preflight.memory(laptop, 4, 3 * each + 1))
    assert "use --cores 3." in line and f"{4 * each} MB" in line
    [line] = sentences(preflight.memory(laptop, 1, each - 1))
    assert "use a larger one" in line
    few = len(laptop.batches())
    assert preflight.memory(laptop, 1000 * few, few * each) == [], "no more processes run than there are batches"


def test_memory_of_a_container_is_its_limit(tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text(f"{300 * 2**20}\n")
    assert preflight.machine_memory(limit) == 300
    limit.write_text("max\n")
    assert preflight.machine_memory(limit) == preflight.machine_memory(tmp_path / "none") > 300


def test_a_model_must_fit_on_the_gpu_or_without_one_in_memory(tiny):
    assert preflight.count_parameters(tiny) == 3_000_000
    models = {"policy": tiny, "hotpot": {"lora": None}, "released": []}
    settings = config.load("gpu", overrides={"models": models})
    plan = graph.Plan(settings, ("binary_reward",))
    assert preflight.model_needs(plan)[tiny] == preflight.TRAINED
    whole, each = 3_000_000 * preflight.TRAINED // 2**20, preflight.PROCESS
    assert preflight.memory(plan, 1, each + whole, whole) == []
    [line] = sentences(preflight.memory(plan, 1, each + whole, whole - 1))
    assert tiny in line and f"at least {whole} MB of GPU memory" in line and "config/gpu.yaml" in line
    adapters = graph.Plan(
        config.load("gpu", overrides={"models": {"policy": tiny, "released": []}}), ("binary_reward",)
    )
    assert preflight.model_needs(adapters)[tiny] == preflight.HELD
    assert preflight.memory(adapters, 1, each + whole, whole - 1) == []


def test_a_model_must_fit_in_memory_where_there_is_no_gpu(tiny, monkeypatch):
    monkeypatch.setattr(preflight, "gpu_memory", lambda: 0)
    settings = config.load("gpu", overrides={"models": {"policy": tiny, "hotpot": {"lora": None}, "released": []}})
    [line] = sentences(preflight.memory(graph.Plan(settings, ("binary_reward",)), 1, preflight.PROCESS + 1))
    assert "where there is no GPU" in line


# --- GPUs and models --------------------------------------------------------------------------------


def test_a_gpu_is_asked_of_this_machine_alone_and_a_cpu_can_be_chosen(tiny, tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plan = graph.Plan(config.load("gpu", overrides={"models": {"policy": tiny, "released": []}}), ("binary_reward",))

    def gpu(here: bool) -> list[bool]:
        return [line for line in sentences(plan.requirements(here)) if "needs a GPU" in line]

    assert len(gpu(here=True)) == 1 and "CANDOR_CPU=1" in gpu(here=True)[0]
    assert gpu(here=False) == [], "the nodes of a cluster have GPUs, its login node has none"
    assert [line for line in plan.requirements(False) if "candor fetch" in line], "data must be there all the same"
    monkeypatch.setenv("CANDOR_CPU", "1")
    assert gpu(here=True) == []


def test_a_model_that_cannot_exist_is_told_from_one_that_is_not_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    lacks = sentences(needs.weights_missing(config.load("gpu"), ["Qwen/Qwen 2.5", "/weights/none", "nobody/nothing"]))
    assert ["neither a folder" in line for line in lacks] == [True, True, False]
    assert "'Qwen/Qwen 2.5'" in lacks[0] and "config/gpu.yaml" in lacks[0]
    assert "(nobody/nothing)" in lacks[2] and "candor fetch models" in lacks[2]


def test_what_can_be_fetched_is_one_sentence_with_one_command(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    plan = graph.plan("gpu")
    lacks = plan.requirements()
    with pytest.raises(CandorError) as refused:
        preflight.check(plan, 1)
    said = sentences(str(refused.value).splitlines())
    [line] = [line for line in said if "candor fetch" in line]
    assert line is said[-1] and len(lacks) > len(said) and line.count("run `") == 1
    known = re.findall(r"candor fetch (.+?)(?: --scale|`)", "\n".join(lacks))
    names = re.search(r"candor fetch (.+) --scale gpu`", line)[1].split()
    assert sorted(names) == sorted({name for some in known for name in some.split()})
    for place in {place for some in re.findall(r"\(([^)]*/[^)]*)\)", "\n".join(lacks)) for place in some.split(", ")}:
        assert line.count(f"{place},") + line.count(f"{place})") == 1
    others = ["A is missing: run `b`.", "C."]
    assert preflight.one_command(others, "gpu") == others


def test_fetching_without_a_network_or_by_a_wrong_name_is_one_sentence():
    from huggingface_hub import hf_hub_download

    with pytest.raises(CandorError, match=r"'Qwen/Qwen 2.5' is neither a folder nor a name on the Hub"):
        fetch._reaching("Qwen/Qwen 2.5", lambda: hf_hub_download("Qwen/Qwen 2.5", "config.json"))
    nobody = "http://127.0.0.1:9/outputs"
    with pytest.raises(CandorError, match=r"outputs could not be fetched .* is there a network\?"):
        fetch._reaching(nobody, lambda: fetch._read(nobody))


# --- Slurm ------------------------------------------------------------------------------------------


def programs(folder: Path, **outputs: str) -> str:
    """A path with stand-ins for Slurm's programs, each of which prints what it is given (or fails, for None).

    `tests/cluster/slurm.py` asks the real ones, of a cluster that keeps no accounts.
    """
    for name, output in {"sbatch": "", "squeue": "", "scontrol": None, "sacctmgr": None, **outputs}.items():
        text = "exit 1" if output is None else f"cat <<'END'\n{output}\nEND"
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


ACCOUNTS = "AccountingStorageType   = accounting_storage/slurmdbd\nAccountingStorageEnforce = associations,limits"


def test_no_slurm_is_one_sentence(tmp_path):
    [line] = sentences(preflight.slurm([("", "")], path=str(tmp_path)))
    assert "sbatch is not on the path" in line and "login node" in line


@pytest.mark.parametrize(
    ("outputs", "asked", "said"),
    [
        ({"sinfo": None}, ("", ""), "does not answer"),
        ({"sinfo": "main*\ngpu", "scontrol": "AccountingStorageType = (null)"}, ("", ""), ""),
        ({"sinfo": "main*\ngpu", "scontrol": "AccountingStorageType = (null)"}, ("anything", "gpu"), ""),
        ({"sinfo": "main*\ngpu", "scontrol": ""}, ("", "big"), "no partition 'big': name one of gpu, main"),
        ({"sinfo": "cpu\ngpu", "scontrol": ""}, ("", ""), "no default partition: name one of cpu, gpu"),
        ({"sinfo": "main*", "scontrol": ACCOUNTS, "sacctmgr": "lab\nteam"}, ("Lab", ""), ""),
        ({"sinfo": "main*", "scontrol": ACCOUNTS, "sacctmgr": "lab\nteam"}, ("other", ""), "yours are lab, team"),
        ({"sinfo": "main*", "scontrol": ACCOUNTS, "sacctmgr": ""}, ("", ""), "no account for"),
        ({"sinfo": "main*", "scontrol": ACCOUNTS, "sacctmgr": "lab"}, ("", ""), ""),
    ],
)
def test_partitions_and_accounts_are_asked_of_slurm_before_a_job_is_sent(tmp_path, monkeypatch, outputs, asked, said):
    path = programs(tmp_path, **outputs)
    monkeypatch.setenv("PATH", path)
    lacks = sentences(preflight.slurm([asked]))
    assert len(lacks) == bool(said) and said in "".join(lacks)


# --- Clusters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_profiles_name_what_the_installed_executor_knows(name):
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    profile = yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text())
    plugin = ExecutorPluginRegistry().get_plugin(profile["executor"])
    prefix = f"{profile['executor']}-"
    known = {prefix + field.replace("_", "-") for field in plugin.settings_cls.__dataclass_fields__}
    assert {key for key in profile if key.startswith(prefix)} <= known
    assert not plugin.common_settings.implies_no_shared_fs, "steps leave their folders on what is shared"


def test_a_pod_asks_for_time_and_for_a_gpu_only_where_the_job_does():
    from kubernetes import client
    from snakemake_executor_plugin_kubernetes_volume import complete

    def job(gpu: str):
        asked = {"cpu": "1", "memory": "2000M", "nvidia.com/gpu": gpu}
        resources = client.V1ResourceRequirements(requests=dict(asked), limits=dict(asked))
        pod = client.V1PodSpec(
            containers=[client.V1Container(name="snakemake", resources=resources)],
            tolerations=[client.V1Toleration(key="nvidia.com/gpu")],
        )
        return client.V1Job(spec=client.V1JobSpec(template=client.V1PodTemplateSpec(spec=pod)))

    pod = complete(job("0"), {"gpu": 0, "runtime": 120}).spec.template.spec
    assert pod.active_deadline_seconds == 7200 and pod.tolerations is None
    assert pod.containers[0].resources.requests == pod.containers[0].resources.limits == {"cpu": "1", "memory": "2000M"}
    pod = complete(job("1"), {"gpu": 1, "runtime": 1440}).spec.template.spec
    assert pod.active_deadline_seconds == 86400 and pod.tolerations[0].key == "nvidia.com/gpu"
    assert pod.containers[0].resources.limits["nvidia.com/gpu"] == "1"


def test_the_pod_and_the_volume_of_the_cluster_are_those_of_the_profile():
    profile = yaml.safe_load((ROOT / "profiles/kubernetes/profile.yaml").read_text())
    objects = {o["kind"]: o for o in yaml.safe_load_all((ROOT / "profiles/kubernetes/candor.yaml").read_text())}
    [container] = objects["Pod"]["spec"]["containers"]
    [mount] = container["volumeMounts"]
    volume = f"{objects['PersistentVolumeClaim']['metadata']['name']}:{mount['mountPath']}"
    assert profile["kubernetes-volume-persistent-volumes"] == volume
    assert profile["container-image"] == container["image"]
    assert f"PYTHONPATH={mount['mountPath']}/candor/lib" in (ROOT / "profiles/kubernetes/Dockerfile").read_text()


@pytest.mark.slow
def test_the_graph_itself_refuses_before_its_first_job(tmp_path):
    """Bare `snakemake` on a machine without Slurm."""
    for tool in ("bash", "sh", "git", "which"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", "--nocolor"]
    command += ["--config", "scale=smoke", "claim=grounding_loss"]
    environment = {**os.environ, "PATH": str(tmp_path), "CANDOR_RESULTS": str(tmp_path / "results")}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode and "sbatch is not on the path" in made.stdout + made.stderr
    assert not list(tmp_path.rglob("*.parquet"))
