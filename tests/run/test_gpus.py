"""GPU ids for jobs, on a machine that need not have any: real processes, a pretended number of GPUs."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.run import gpus, jobs, replicate
from candor.run import plan as graph

JOB = """
import json, os, sys, time
from candor.run import gpus

with gpus.assigned(int(sys.argv[1])) as ids:
    start = time.time()
    assert ",".join(ids) == os.environ["CUDA_VISIBLE_DEVICES"]
    print(json.dumps([ids, start]), flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.time(), flush=True)
    os._exit(0)  # released even so
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with two GPUs, and a temporary folder of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(gpus.NUMBER, "2")
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def job(number: int, seconds: float = 0.0) -> subprocess.Popen:
    command = [sys.executable, "-c", JOB, str(number), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_jobs_at_the_same_time_never_share_a_gpu():
    started = [job(number, 0.3) for number in (1, 1, 2, 1, 1)]
    found = []
    for process in started:
        lines = process.communicate()[0].splitlines()
        assert process.returncode == 0
        ids, start = json.loads(lines[0])
        found += [(name, start, float(lines[1])) for name in ids]
    assert sorted(name for name, *_ in found) in (["0"] * k + ["1"] * (6 - k) for k in range(1, 6))
    for name in ("0", "1"):
        times = sorted((start, end) for other, start, end in found if other == name)
        assert all(end <= start for (_, end), (start, _) in pairwise(times)), times


def test_a_killed_job_gives_its_gpus_back_and_a_waiting_one_gets_them():
    first = job(2, 600)
    assert json.loads(first.stdout.readline())[0] == ["0", "1"]
    second = job(1)
    time.sleep(0.5)
    assert second.poll() is None, "there is none left"
    first.send_signal(signal.SIGKILL)
    assert json.loads(second.communicate()[0].splitlines()[0])[0] == ["0"]
    first.communicate()


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("3,5", ("3", "5")),
        ("GPU-8f2e,MIG-1/2", ("GPU-8f2e", "MIG-1/2")),
        ("1,-1,2", ("1",)),
        ("NoDevFiles", ()),
        ("", ()),
    ],
)
def test_what_a_scheduler_says_is_all_there_is(monkeypatch, visible, ids):
    monkeypatch.setenv(gpus.VISIBLE, visible)
    assert gpus.there() == ids
    with gpus.assigned(1) as given:
        assert given == ids[:1] and os.environ[gpus.VISIBLE] == ",".join(ids[:1])
    assert os.environ[gpus.VISIBLE] == visible


def test_ids_of_two_slurm_jobs_are_not_the_same_gpus(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0")  # each job of Slurm counts its own from 0
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with gpus.assigned(1) as first:
        monkeypatch.setenv("SLURM_JOB_ID", "8")
        with gpus.assigned(1) as second:
            assert first == second == ("0",)


def test_too_few_gpus_and_a_wrong_number_are_one_sentence(monkeypatch):
    with pytest.raises(CandorError, match="to have 3 GPUs, but only 2 can be seen"), gpus.assigned(3):
        pass
    monkeypatch.setenv(gpus.NUMBER, "two")
    with pytest.raises(CandorError, match="CANDOR_GPUS is 'two'"):
        gpus.there()


def test_a_machine_that_cannot_say_leaves_the_choice_to_torch(monkeypatch):
    monkeypatch.delenv(gpus.NUMBER)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    with gpus.assigned(1) as ids:
        assert ids == () and gpus.VISIBLE not in os.environ
    with gpus.assigned(0):
        assert os.environ[gpus.VISIBLE] == "", "a small world sees none even so"


def test_a_batch_sees_the_gpus_of_its_job(monkeypatch, tmp_path):
    key, plan = "witnesses/expert/base", graph.plan("smoke")
    for number, seen in ((None, ""), (1, "0")):
        monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / f"results{number}"))
        jobs.batch(plan, 11, [key], number=number)
        assert steps.read(key, 11, "smoke").run["visible_gpus"] == seen


def test_jobs_ask_for_the_gpus_that_they_can_use():
    plan = graph.plan("gpu")
    batches = plan.batches(1).values()
    asked = {batch.keys[0]: plan.gpus(batch, each=4) for batch in batches}
    assert asked["hotpot/policy/rlcr"] == 4, "GRPO by accelerate"
    assert asked["hotpot/policy/eval_rlcr"] == 1 and asked["dialogues/own/dpo"] == 1
    assert asked["annotations/data/eval_dices"] == 0, "data alone"
    assert asked["witnesses/expert/rlcr"] == 0
    assert {plan.gpus(batch, worlds=True) for batch in batches if batch.keys[0].startswith("witnesses/")} == {1}


def test_one_command_hands_the_gpus_on():
    plan = graph.plan("gpu", "brier_fix")
    words = replicate._command(plan, 2, None, [], (4, 2))
    assert words[words.index("--resources") + 1] == "gpu=4" and "gpus_per_job=2" in words
    with pytest.raises(CandorError, match="cannot have 2 GPUs where all share 1: raise --gpus"):
        replicate.replicate(plan, 2, gpus=(1, 2))
    assert "--resources" not in replicate._command(graph.plan("smoke"), 2, None, [])
