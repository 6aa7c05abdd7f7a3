"""Prove profiles/slurm against a real Slurm: controller, node and authentication on this one machine.

    sudo apt-get install slurm-wlm munge
    sudo env PATH="$PATH" python tests/cluster/slurm.py [--claim grounding_loss] [--folder FOLDER]

Run as root in Candor's environment. It starts munged, slurmctld
and slurmd from files of its own in FOLDER (a new one below /tmp unless given), runs the smoke graph of one claim
through them, kills one of its jobs, sees that job run again with more memory, cancels a second graph and sees its jobs
leave the queue, and holds the ledger against that of a local run. Prints what it saw; exit status 1 if any of that
is not so. It is no part of `make test`: it needs root and two packages of the system.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path("/etc/slurm/slurm.conf")  # where srun looks inside a job: Snakemake's plugin clears SLURM_CONF there
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONFIGURATION = """\
ClusterName=candor
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
MpiDefault=none
ReturnToService=2
# squeue must remember a finished job longer than Snakemake waits between two looks.
MinJobAge=600
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--claim", default="grounding_loss")
    arguments.add_argument("--folder", type=Path)
    given = arguments.parse_args()
    if lacking := [name for name in DAEMONS if not shutil.which(name, path=_path())]:
        sys.exit(f"{lacking[0]} is missing: install Debian's slurm-wlm and munge.")
    if os.geteuid():
        sys.exit("Slurm's node daemon starts jobs for others and needs root: run this with sudo.")
    if PLACE.exists():
        sys.exit(f"{PLACE} is there already: this script makes its own cluster and leaves yours alone.")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so its children
    folder = given.folder or Path(tempfile.mkdtemp(prefix="candor-slurm-"))
    folder.mkdir(parents=True, exist_ok=True)
    with cluster(folder) as environment:
        seen = {"a cancelled graph leaves no job behind": cancelled(environment, folder / "cancelled", given.claim)}
        seen |= killed_and_retried(environment, folder / "slurm", given.claim)
    command = graph(folder / "local", given.claim, "--cores", "2")
    subprocess.run(command, cwd=ROOT, env=_results(folder / "local"), check=True, capture_output=True)
    seen["the ledger is that of a local run"] = same_ledger(folder / "slurm", folder / "local")
    for sentence, held in seen.items():
        print(f"{'yes' if held else 'NO '}  {sentence}", flush=True)
    print(f"Logs and results: {folder}")
    return int(not all(seen.values()))


# --- The cluster ------------------------------------------------------------------------------------


@contextmanager
def cluster(folder: Path):
    """Munge and Slurm on this machine until the block ends; yields the environment in which clients find them."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            port=_free_port(),
            node_port=_free_port(),
            cpus=os.cpu_count(),
            memory=int(0.9 * memory),
        )
    )
    environment = {**os.environ, "PATH": _path()}
    munge = [f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge/pid"]
    munge += [f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed", "--force", "--foreground"]
    daemons = []
    try:
        for command in (["munged", *munge], ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            log = (folder / f"{command[0]}.out").open("w")
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(2)
        _wait(lambda: "idle" in _output(["sinfo", "-h", "-o", "%T"], environment), 60, "The node did not come up.")
        print(_output(["sinfo"], environment), flush=True)
        yield environment
    finally:
        subprocess.run(["scancel", "--me"], env=environment, capture_output=True, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        PLACE.unlink()


# --- What is proven ---------------------------------------------------------------------------------


def killed_and_retried(environment: dict[str, str], results: Path, claim: str) -> dict[str, bool]:
    """Runs the smoke graph, kills the first job that trains, and looks at what the graph did about it."""
    import psutil

    process = _start(environment, results, claim)
    memory = {}

    def running() -> list[str]:
        """Ids of the jobs that run now; the memory that each asked for is kept."""
        rows = _output(["squeue", "-h", "-t", "RUNNING", "-o", "%i %m"], environment).splitlines()
        memory.update(row.split() for row in rows)
        return [row.split()[0] for row in rows]

    def at_work() -> list[psutil.Process]:
        running()
        processes = psutil.process_iter(["cmdline"])
        return [p for p in processes if (p.info["cmdline"] or [])[1:4] == ["-m", "candor", "steps"]]

    _wait(at_work, 120, "No job started.")
    time.sleep(8)  # so that it trains, not only starts
    for victim in at_work()[:1]:
        print(f"Killed: {' '.join(victim.info['cmdline'][1:8])}", flush=True)
        victim.kill()
    while process.poll() is None:
        running()
        time.sleep(2)
    made = list((results / "smoke" / "steps").rglob("run.json"))
    print(f"{len(memory)} jobs ran {len(made)} steps; memory asked: {sorted(set(memory.values()))}", flush=True)
    log = (results / "snakemake.log").read_text()
    return {
        "the smoke graph went through Slurm": process.returncode == 0 and len(memory) > 1,
        "a killed job ran again": "Trying to restart" in log,
        "... with more memory": len(set(memory.values())) > 1,
        "only steps were sent to the cluster": _sent(log) == {"steps"},
    }


def cancelled(environment: dict[str, str], results: Path, claim: str) -> bool:
    """Whether the queue is empty after a graph was interrupted."""
    process = _start(environment, results, claim)

    def jobs() -> str:
        return _output(["squeue", "-h", "-o", "%i %T"], environment)

    _wait(jobs, 120, "No job was submitted.")
    process.send_signal(signal.SIGINT)
    process.wait(120)
    try:
        _wait(lambda: not jobs().replace("COMPLETING", "").strip(), 60, "")
    except TimeoutError:
        return False
    return True


def same_ledger(one: Path, other: Path) -> bool:
    """Whether two runs of the smoke scale came to the same values and verdicts."""
    first, second = (pd.read_csv(folder / "smoke" / "ledger.csv") for folder in (one, other))
    try:
        pd.testing.assert_frame_equal(first, second, rtol=1e-6)
    except AssertionError as error:
        print(error)
        return False
    print(f"{len(first)} criteria, the same values and verdicts on both ways.")
    return True


# --- Helpers ----------------------------------------------------------------------------------------


def graph(results: Path, claim: str, *more: str) -> list[str]:
    """The command that runs the smoke graph of a claim as far as its ledger, eight steps a job."""
    settings = ["scale=smoke", f"claim={claim}", "batch=8"]
    target = f"{results}/smoke/ledger.csv"
    return [sys.executable, "-m", "snakemake", target, *more, "--nocolor", "--config", *settings]


def _start(environment: dict[str, str], results: Path, claim: str) -> subprocess.Popen:
    results.mkdir(parents=True, exist_ok=True)
    # This cluster keeps no accounts, so that sacct knows nothing.
    ask = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5")
    command = graph(results, claim, "--workflow-profile", "profiles/slurm", *ask)
    log = (results / "snakemake.log").open("w")
    return subprocess.Popen(command, cwd=ROOT, env=_results(results, environment), stdout=log, stderr=log)


def _results(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    return {**environment, "CANDOR_RESULTS": str(folder)}


def _sent(log: str) -> set[str]:
    lines = [line for line in log.splitlines() if "has been submitted with SLURM jobid" in line]
    return {"steps" if "/steps/" in line or "rule_steps" in line else line for line in lines}


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/usr/bin"


def _output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _wait(until, seconds: float, complaint: str) -> None:
    end = time.time() + seconds
    while not until():
        if time.time() > end:
            raise TimeoutError(complaint)
        time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
