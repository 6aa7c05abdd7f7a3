"""Which GPUs a job sees: ids of its own, or none. Decided before torch is imported.

A GPU is lent by a lock on a file of its id, which the kernel releases when the process ends, however it ends. The
locks lie in the temporary folder of the machine (and of the Slurm job, whose ids are its own): jobs of one person on
one machine never share an id, whatever their results folders.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from candor.core.errors import CandorError

VISIBLE = "CUDA_VISIBLE_DEVICES"
NUMBER = "CANDOR_GPUS"  # how many GPUs there are, where nvidia-smi cannot say it


def there() -> tuple[str, ...] | None:
    """Ids of the GPUs that this process may use; None where nobody can say.

    They are those of CUDA_VISIBLE_DEVICES where a scheduler or a person has set it, else as many as CANDOR_GPUS says,
    else those that nvidia-smi lists.
    """
    if VISIBLE in os.environ:
        ids = [part.strip() for part in os.environ[VISIBLE].split(",")]
        bad = next((i for i, part in enumerate(ids) if not part or part.startswith("-") or part == "NoDevFiles"), None)
        return tuple(dict.fromkeys(ids[:bad]))  # CUDA stops reading at the first id that is none
    if number := os.environ.get(NUMBER):
        if not number.isdecimal():
            raise CandorError(f"{NUMBER} is {number!r}: set it to the number of GPUs, such as 2, or unset it.")
        return tuple(map(str, range(int(number))))
    asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(line.strip() for line in told.splitlines() if line.strip().isdecimal())


@contextmanager
def assigned(number: int) -> Iterator[tuple[str, ...]]:
    """Sets CUDA_VISIBLE_DEVICES to `number` GPUs that no other job has, or to none for 0, until the end of the block.

    Waits until enough are free, first come, first served. A machine without a GPU gives none; where nobody can say
    which there are, the variable stays as it is. Raises: `CandorError` where there are fewer than `number`.
    """
    ids = there() if number else ()
    if ids is None:
        yield ()
        return
    if ids and number > len(ids):
        raise CandorError(
            f"A job is to have {number} GPUs, but only {len(ids)} can be seen here: lower gpus_per_job in the profile."
        )
    taken = _take(ids, number) if ids else {}
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(taken)
    try:
        yield tuple(taken)
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
        for file in taken.values():
            file.close()


def _take(ids: tuple[str, ...], number: int) -> dict[str, TextIO]:
    """Locked files of `number` of the ids. Who waits holds the door, so that nobody overtakes a job that needs more."""
    folder = Path(tempfile.gettempdir(), f"candor-gpus-{os.getuid()}", os.environ.get("SLURM_JOB_ID", "here"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken: dict[str, TextIO] = {}
    with (folder / "door").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        while True:
            for name in ids:
                if name not in taken and len(taken) < number and (file := _lock(folder, name)):
                    taken[name] = file
            if len(taken) == number:
                return {name: taken[name] for name in ids if name in taken}
            time.sleep(0.2)


def _lock(folder: Path, name: str) -> TextIO | None:
    file = (folder / (re.sub(r"[^\w-]", "_", name) + ".lock")).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    os.set_inheritable(file.fileno(), True)  # processes that it starts on these GPUs hold them too (close_fds=False)
    return file
