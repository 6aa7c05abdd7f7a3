"""Programs that a model wrote run here, through `run_untrusted`, and nowhere else.

Supports: Python programs of the standard library that read stdin and write stdout, on Linux. `bubblewrap`: a process
under bubblewrap in namespaces of its own, without a network, with the interpreter and its libraries read-only and one
small scratch directory. `container`: limits alone, for a disposable container without a network, where the scale's
configuration says so (`models.sandbox: container`); limits are not a sandbox, so nothing falls back to it.
Assumes: bubblewrap 0.8, user namespaces, `/proc`.
Raises: `CandorError` in one sentence where the sandbox is not there or does not hold: a self-test tries to break out
before the first program runs.
"""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import cache, lru_cache
from itertools import count
from pathlib import Path

from candor.errors import CandorError

KINDS = ("bubblewrap", "container")
_MIB = 2**20
# What `-I` says, in an empty environment, but for one thing: `-I` would not read PYTHONHASHSEED.
_FLAGS = ("-s", "-P", "-S", "-B")
_HASHES = ("PYTHONHASHSEED", "0")
# The limits are set before the interpreter that runs the program starts. The hard limit on time is a second higher, so
# that the signal tells what happened.
_LAUNCH = """
import os, resource as r, sys
cpu, memory, size, files, processes, user = map(int, sys.argv[2:8])
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
for what, soft, hard in (("CPU", cpu, cpu + 1), ("AS", memory, memory), ("FSIZE", size, size), ("CORE", 0, 0),
                         ("NOFILE", files, files), ("NPROC", processes, processes)):
    r.setrlimit(getattr(r, "RLIMIT_" + what), (soft, hard))
os.execv(sys.executable, [sys.executable, *sys.argv[8:], sys.argv[1]])
"""


@dataclass(frozen=True)
class Limits:
    """What one run may use. Seconds, bytes, numbers.

    Older kernels count all processes of the user against `processes`: what contains a fork bomb is that its namespace
    is killed when the time is up.
    """

    cpu: int = 2
    memory: int = 512 * _MIB
    file_size: int = _MIB
    files: int = 32
    processes: int = 16
    wall: float = 4.0
    output: int = 64 * 1024
    scratch: int = 16 * _MIB


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """What a program did: status is exited (status 0), error or timeout; error names the exception, if one was told."""

    status: str
    stdout: str
    error: str = ""
    cut: bool = False  # more was written than is kept


def run_untrusted(program: str, stdin: str = "", limits: Limits = LIMITS, kind: str = "bubblewrap") -> Outcome:
    """Run a Python program once, in a sandbox and an interpreter of its own.

    Nothing but `stdin` goes in. Raises: `CandorError` where the sandbox fails its self-test; then nothing is run.
    """
    check(kind)
    return _run(program, stdin, limits, kind)


# --- One run ----------------------------------------------------------------------------------------


def _run(program: str, stdin: str, limits: Limits, kind: str) -> Outcome:
    source, data = (_sealed(text.encode("utf-8", "replace")) for text in (program, stdin))
    rules = _sealed(_rules()) if kind == "bubblewrap" else None
    report, told = os.pipe()  # bubblewrap's own word on how the program ended
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    scratch = tempfile.mkdtemp(prefix="candor-") if kind == "container" else None
    values = [str(value) for value in astuple(limits)[:5]]
    command = [_python(), *_FLAGS, "-c", _LAUNCH, f"/proc/self/fd/{source}", *values, str(_user(kind)), *_FLAGS]
    if kind == "bubblewrap":
        command = [*_bubblewrap(limits.scratch, told, rules), "--", *command]
    deadline = time.monotonic() + limits.wall
    try:
        try:
            process = subprocess.Popen(
                command,
                stdin=data,
                stdout=out_end,
                stderr=err_end,
                env=dict([_HASHES]),
                cwd=scratch or "/",
                pass_fds=(source, told, rules) if kind == "bubblewrap" else (source,),
                start_new_session=True,
            )
        finally:
            for end in (source, data, told, out_end, err_end, *([] if rules is None else [rules])):
                os.close(end)
        [(stdout, cut), (stderr, _)], ended = _read({out: limits.output, err: 4096}, process, deadline)
        if kind == "bubblewrap" and not ended:
            raise CandorError(_refusal("a process outlives its sandbox"))
        code = process.returncode if kind == "container" else _exit_code(report, process.returncode, stderr)
    finally:
        for end in (report, out, err):
            os.close(end)
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    # Killed by us (bubblewrap says 128 + the signal of a program that was killed inside), or out of CPU seconds.
    if process.returncode == -signal.SIGKILL or code in (128 + signal.SIGXCPU, -signal.SIGXCPU):
        status = "timeout"
    else:
        status = "error" if code else "exited"
    named = re.match(r"(\w+)", stderr.strip().splitlines()[-1]) if status == "error" and stderr.strip() else None
    return Outcome(status, stdout, named[1] if named else "", cut)


def _sealed(content: bytes) -> int:
    """A file without a name that holds `content` and that nobody can change, open at its start."""
    handle = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(handle, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(handle, 0, os.SEEK_SET)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return handle


def _read(kept: dict[int, int], process: subprocess.Popen, deadline: float) -> tuple[list[tuple[str, bool]], bool]:
    """Read pipes to their ends or until the deadline, then kill; of each what fits its limit, and whether it did not.

    Of the last pipe the end is kept: a traceback says at its end what went wrong. Also returns whether the pipes came
    to their ends after all: they do when no process that could write to them is left.
    """
    held, over, last = dict.fromkeys(kept, b""), dict.fromkeys(kept, False), list(kept)[-1]
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            selector.register(pipe, selectors.EVENT_READ)

        def read_until(when: float) -> None:
            while selector.get_map() and (left := when - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    part = os.read(key.fd, 65536)
                    if not part:
                        selector.unregister(key.fd)
                        continue
                    whole = held[key.fd] + part
                    held[key.fd] = whole[-kept[key.fd] :] if key.fd == last else whole[: kept[key.fd]]
                    over[key.fd] |= len(whole) > kept[key.fd]

        read_until(deadline)
        with suppress(subprocess.TimeoutExpired):  # a program may close its output and go on
            process.wait(max(deadline - time.monotonic(), 0))
        with suppress(ProcessLookupError):  # bubblewrap is in the group, and with it everything inside dies
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        read_until(time.monotonic() + 30)  # thousands of processes take a while to die
        ended = not selector.get_map()
    return [(held[pipe].decode("utf-8", "replace"), over[pipe]) for pipe in kept], ended


def _exit_code(report: int, returned: int, stderr: str) -> int:
    """The program's exit status by bubblewrap's report; without one bubblewrap itself failed, unless we killed it."""
    found = re.search(rb'"exit-code"\s*:\s*(\d+)', os.read(report, 4096))
    if not found and returned != -signal.SIGKILL:
        raise CandorError(_refusal(stderr or f"bubblewrap ended with status {returned}"))
    return int(found[1]) if found else returned


# --- The walls --------------------------------------------------------------------------------------


@cache
def _python() -> str:
    """The interpreter itself, not the link to it in a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _libraries() -> tuple[str, ...]:
    """Interpreter, standard library and shared libraries: all that a program sees of this machine."""
    own = (
        _python(),
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        sysconfig.get_config_var("LIBDIR"),
    )
    places = (*own, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
    return tuple(dict.fromkeys(place for place in places if place and Path(place).exists()))


# The kernel's number of the processor, and of its calls clone, unshare and setns.
_CALLS = {"x86_64": (0xC000003E, 56, 272, 308), "aarch64": (0xC00000B7, 220, 97, 268)}
_CLONE3, _NEW_USER, _X32 = 435, 0x10000000, 0x40000000


@cache
def _rules() -> bytes:
    """A seccomp filter: no user namespace inside, where a program would be root and mount memory without a limit.

    Raises: `CandorError` on a processor whose calls are not known here.
    """
    machine = os.uname().machine
    if machine not in _CALLS:
        raise CandorError(_refusal(f"no rules for {machine}"))
    processor, clone, unshare, setns = _CALLS[machine]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, forbid, unknown, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # EPERM; ENOSYS: libc then uses clone
    steps = (  # operation, steps to skip if it holds and if not, operand
        (load, 0, 0, 4),  # of seccomp_data: processor at 4, call at 0, first argument at 16
        (equal, 1, 0, processor),
        (end, 0, 0, kill),
        (load, 0, 0, 0),
        (equal, 8, 0, _CLONE3),  # its flags cannot be read from here
        (at_least, 6, 0, _X32),
        (equal, 5, 0, unshare),
        (equal, 4, 0, setns),
        (equal, 0, 2, clone),
        (load, 0, 0, 16),
        (any_bit, 1, 0, _NEW_USER),
        (end, 0, 0, allow),
        (end, 0, 0, forbid),
        (end, 0, 0, unknown),
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _bubblewrap(scratch: int, report: int, rules: int) -> list[str]:
    if os.geteuid():
        user = ("--unshare-user", "--uid", "65534", "--gid", "65534")
    else:
        # Root needs no user namespace: in one it would still be root to the kernel, whom no limit on processes binds.
        # The launcher makes it a user without rights or capabilities instead.
        user = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    parents = dict.fromkeys(parent for place in _libraries() for parent in reversed(Path(place).parents[:-1]))
    return [
        *(
            shutil.which("bwrap") or "bwrap",
            *user,
            "--unshare-net",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ),
        *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv", "--setenv", *_HASHES),
        *(part for place in parents for part in ("--perms", "0755", "--dir", str(place))),
        *(part for place in _libraries() for part in ("--ro-bind", place, place)),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--perms", "0777", "--size", str(scratch)),
        *("--tmpfs", "/scratch", "--chdir", "/scratch", "--remount-ro", "/"),
        *("--seccomp", str(rules), "--json-status-fd", str(report)),
    ]


_runs = count()


def _user(kind: str) -> int:
    """The user that a program runs as, 0 to stay the same; one of its own, whose processes are counted alone."""
    return 20_000 + next(_runs) % 40_000 if kind == "bubblewrap" and os.geteuid() == 0 else 0


# --- Whether they hold ------------------------------------------------------------------------------

_WAYS = (
    "install bubblewrap (0.8 or newer; on Debian and Ubuntu `apt-get install bubblewrap`), or allow its profile "
    "(`bwrap` has to make user namespaces, which Ubuntu 24.04 and later forbid by AppArmor), or run in a disposable "
    "container without a network and say so by models.sandbox: container in the scale's configuration."
)


def _refusal(reason: str) -> str:
    reason = " ".join(reason.split())[:200].rstrip(".")
    return f"Programs that a model wrote cannot be run safely here ({reason}): {_WAYS}"


@cache
def check(kind: str = "bubblewrap") -> None:
    """The self-test, once a process. Raises: `CandorError` in one sentence if the sandbox is missing or leaks."""
    if kind == "bubblewrap" and shutil.which("bwrap") is None:
        raise CandorError(_refusal("bubblewrap is not installed"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda attempt: attempt(kind), _ATTEMPTS if kind == "bubblewrap" else _LIMITED))
    if leaks := [name for name in found if name]:
        if kind == "container":
            raise CandorError(
                f"models.sandbox is container, but here {leaks[0]}: use a disposable container without a network, or "
                "install bubblewrap and set models.sandbox to bubblewrap."
            )
        raise CandorError(_refusal(leaks[0]))


_SHORT = replace(LIMITS, wall=2.0)


def _works(kind: str) -> str | None:
    found = _run("print(int(input()) + 1, hash('a'))", "41", replace(LIMITS, wall=20.0), kind)
    return None if found.status == "exited" and found.stdout.startswith("42 ") else f"a program fails: {found.error}"


def _network(kind: str) -> str | None:
    # A datagram socket connects where there is a route, and sends nothing.
    route = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    if _run(route, "", _SHORT, kind).status == "exited":
        return "a program reaches a network"
    if kind == "container":
        return None
    with socket.create_server(("127.0.0.1", 0)) as server:
        local = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)"
        return "a program reaches this machine" if _run(local, "", _SHORT, kind).status == "exited" else None


def _files(kind: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        secret, made = Path(folder) / "secret", Path(folder) / "made"
        secret.write_text("secret")
        Path(folder).chmod(0o777)
        secret.chmod(0o666)
        _run(f"open({str(made)!r}, 'w').write('x')\n", "", _SHORT, kind)
        read = _run(f"print(open({str(secret)!r}).read())", "", _SHORT, kind)
        return "a program reads or writes files of this machine" if made.exists() or read.stdout else None


def _nested(kind: str) -> str | None:
    own = f"import ctypes\nraise SystemExit(ctypes.CDLL(None).unshare({_NEW_USER}))"
    found = _run(own, "", _SHORT, kind)
    return "a program makes itself a user namespace" if found.status == "exited" else None


def _loop(kind: str) -> str | None:
    found = _run("while True: pass", "", replace(LIMITS, cpu=1, wall=3.0), kind)
    return None if found.status == "timeout" else "an endless loop is not stopped"


def _memory(kind: str) -> str | None:
    found = _run("print(len(bytearray(800_000_000)))", "", _SHORT, kind)
    return "a program takes more memory than it may" if found.status == "exited" else None


def _output(kind: str) -> str | None:
    found = _run("for _ in range(100): print('x' * 1_000_000)", "", replace(LIMITS, wall=20.0), kind)
    return None if len(found.stdout) <= LIMITS.output and found.cut else "endless output fills the memory"


def _forks(kind: str) -> str | None:
    # `_run` refuses to go on if a process outlives the run.
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    found = _run(bomb, "", replace(LIMITS, wall=0.7), kind)
    return None if found.status == "timeout" else "a fork bomb is not contained"


_Attempt = Callable[[str], str | None]
_ATTEMPTS: tuple[_Attempt, ...] = (_works, _network, _files, _nested, _loop, _memory, _output, _forks)
_LIMITED = (_works, _network, _loop, _memory, _output)


# --- Many runs --------------------------------------------------------------------------------------


@lru_cache(maxsize=2**14)
def _remembered(program: str, stdin: str, limits: Limits, kind: str) -> Outcome:
    return run_untrusted(program, stdin, limits, kind)


class Pool:
    """Runs programs side by side; what a program did with an input is remembered, for all pools of a process.

    Threads: what works is another process. `workers` None: as many as this process may use cores.
    """

    def __init__(self, kind: str = "bubblewrap", workers: int | None = None, limits: Limits = LIMITS):
        check(kind)
        self.workers = workers or len(os.sched_getaffinity(0))
        self.limits, self.kind = limits, kind

    def run(self, program: str, stdin: str) -> Outcome:
        """As `run_untrusted`, once for each program and input."""
        return _remembered(program, stdin, self.limits, self.kind)

    def map(self, function: Callable, *items: Iterable) -> list:
        """`function` of each of the items, in their order; call `run` in it."""
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(function, *items))
