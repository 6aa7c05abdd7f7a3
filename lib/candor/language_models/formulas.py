"""Whether two formulas are equal, by math-verify, in a process of its own.

math-verify's own time limit is a signal, which only a main thread can get, and which does not end a power of a power.
Here the kernel ends a comparison that takes too much processor time or memory, from whatever thread it was asked for;
such formulas count as different.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading

SECONDS, MEMORY = 5, 4 << 30  # processor time of one comparison; bytes of the process

_lock = threading.Lock()
_process: subprocess.Popen | None = None


def _forget() -> None:
    global _lock, _process
    _lock, _process = threading.Lock(), None


def _end() -> None:
    if _process is not None:
        _process.kill()
        _process.communicate()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)  # two processes that share a pipe would read each other's replies


def compare(said: str, golds: list[str]) -> tuple[bool, bool]:
    """Whether `said` can be read as mathematics, and whether it equals one of `golds`; both are plain text or LaTeX."""
    global _process
    with _lock:
        if _process is None or _process.poll() is not None:
            command = [sys.executable, "-P", __file__]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            _process = subprocess.Popen(command, **pipes, text=True)
        try:
            _process.stdin.write(json.dumps([said, golds]) + "\n")
            _process.stdin.flush()
            reply = _process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:  # it was ended
            _end()
            return True, False
        return tuple(json.loads(reply))


def serve() -> None:
    """Answers comparisons on standard input, a line each."""
    import resource

    from math_verify import parse, verify
    from sympy import Basic, MatrixBase

    def read(text: str) -> list:
        # As one formula (as it stands, math-verify would take the number out of "8x"), or with marks of its own.
        for form in (text, f"${text}$") if "$" in text or "\\(" in text else (f"${text}$", text):
            found = [one for one in parse(form, parsing_timeout=None) if isinstance(one, Basic | MatrixBase)]
            if found:  # a text that is not mathematics comes back as a string
                return found
        return []

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1 + SECONDS, resource.RLIM_INFINITY))
        said, golds = json.loads(line)
        formulas = read(said)
        equal = bool(formulas) and any(
            verify(gold, one, timeout_seconds=None) for text in golds for gold in read(text) for one in formulas
        )
        print(json.dumps([bool(formulas), equal]), flush=True)


if __name__ == "__main__":
    serve()
