"""Programs that a model wrote run here, through `run_untrusted`, and nowhere else.

Supports: Python programs of the standard library that read stdin and write stdout, in one process, on Linux on x86-64.
`bubblewrap`: under bubblewrap, in namespaces of its own, with nothing to see but the interpreter, the standard library
and one small scratch directory. `container`: without these walls, for a disposable container without a network, where
the scale's configuration says so (`models.sandbox: container`); nothing falls back to it.
In both, the kernel answers a list of calls and no other, so that there are no sockets and no shared memory. A program
cannot start a process, so what limits its process (memory, CPU seconds) limits the program.
Assumes: bubblewrap 0.8, user namespaces, `/proc`, `ldd`.
Raises: `CandorError` in one sentence where the sandbox is not there or does not hold: a self-test tries to break out
before the first program runs.
"""

from __future__ import annotations

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
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass, replace
from functools import cache, lru_cache
from itertools import count
from pathlib import Path

from candor.core.errors import CandorError

_MIB = 2**20
# What `-I` says, in an empty environment, but for one thing: `-I` would not read PYTHONHASHSEED.
_FLAGS = ("-s", "-P", "-S", "-B")
_HASHES = ("PYTHONHASHSEED", "0")
# One process waits and tells how the other ended; that one gives up its rights and becomes the program. Below the hard
# limit on time there is no soft one, which would be a signal that a program can ignore. The kernel counts that limit in
# ticks, some percent from what was used.
_LAUNCH = """
import ctypes, os, resource, struct, sys
rules, path, report, user, *limits = sys.argv[1:]
rules, (report, user, *limits) = bytes.fromhex(rules), map(int, (report, user, *limits))
if child := os.fork():
    _, status, used = os.wait4(child, 0)
    late = status == 9 and used.ru_utime + used.ru_stime > limits[0] / 2
    os.write(report, b"timeout" if late else b"error" if status else b"exited")
    os._exit(0)
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
for name, value in zip(("CPU", "AS", "FSIZE", "NOFILE", "NPROC"), limits):
    if value:
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
kernel, kept = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(rules)
# No new privileges; a filter of system calls.
if kernel.prctl(38, 1, 0, 0, 0) or kernel.prctl(22, 2, struct.pack("HP", len(rules) // 8, ctypes.addressof(kept))):
    raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")
source = open(path, "rb").read()
os.write(report, b"begins"); os.close(report)
sys.argv = [path]
def run(code, names, own): names.clear(); names.update(own); exec(code, names)
run(compile(source, path, "exec"), globals(), {"__name__": "__main__", "__builtins__": __builtins__, "__file__": path})
"""


@dataclass(frozen=True)
class Limits:
    """What one run may use. Seconds, bytes, numbers.

    cpu: seconds of a processor. processes: threads, in truth, where they can be counted for it alone. wall: seconds
    asleep; those in which it waits for a processor do not count. net: seconds by the clock after which a run is given
    up without a judgement. Memory in all is `memory`, `scratch`, and some MiB of pipes.
    """

    cpu: int = 2
    memory: int = 512 * _MIB
    file_size: int = _MIB
    files: int = 32
    processes: int = 16
    wall: float = 4.0
    output: int = 64 * 1024
    scratch: int = 16 * _MIB
    net: float = 120.0


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """What a program did.

    status: exited (with status 0), error, timeout, or busy: stopped by the net of the clock, which says nothing about
    the program. error: the exception as the traceback names it; a program can write what it likes there, so this
    describes programs that have no reason to deceive and decides no verdict.
    """

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

_runs = count()


def _run(program: str, stdin: str, limits: Limits, kind: str) -> Outcome:
    walled = kind == "bubblewrap"
    user = 20_000 + next(_runs) % 40_000 if walled and os.geteuid() == 0 else 0
    # Its threads are counted alone: those of another user, and newer kernels have a count for each namespace.
    alone = user or (walled and [int(n) for n in re.findall(r"\d+", os.uname().release)[:2]] >= [5, 14])
    with ExitStack() as stack:
        source, data, shown = (_file(text, stack) for text in (program, stdin, stdin))
        ours, theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # the kernel adds who sends: the program's number
        path = "/program.py" if walled else f"/proc/self/fd/{source}"
        values = (_rules().hex(), path, theirs.fileno(), user, *astuple(limits)[:4], limits.processes * bool(alone))
        command = [*_bubblewrap(limits.scratch, source, shown), "/python/bin/python"] if walled else [_PYTHON]
        process = subprocess.Popen(
            [*command, *_FLAGS, "-c", _LAUNCH, *map(str, values)],
            stdin=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict([_HASHES]),
            cwd="/" if walled else stack.enter_context(tempfile.TemporaryDirectory(prefix="candor-")),
            pass_fds=(source, shown, theirs.fileno()),
            start_new_session=True,
        )
        theirs.close()
        with process.stdout, process.stderr:
            status, stdout, stderr = _watch(process, ours, limits)
    told = stderr.decode("utf-8", "replace")
    if status == "none":
        raise CandorError(_refusal(told.strip().split("\n")[-1] or "no program begins", kind))
    error = _exception(told) if status == "error" else ""
    return Outcome(status, stdout[: limits.output].decode("utf-8", "replace"), error, len(stdout) > limits.output)


def _file(text: str, stack: ExitStack) -> int:
    """A file without a name that holds `text`, open at its start until the stack ends."""
    handle = os.memfd_create("text")
    stack.callback(os.close, handle)
    os.pwrite(handle, text.encode("utf-8", "replace"), 0)
    return handle


_TICK = 0.1  # seconds
_PIPE = 16 * 1024  # bytes that a full pipe holds at least: who filled it waits for us and does not sleep


def _watch(process: subprocess.Popen, report: socket.socket, limits: Limits) -> tuple[str, bytes, bytes]:
    """Read until the program ends or has to, then kill all of it: status (none where no program began), stdout (a byte
    more than its limit where there was more), end of stderr.

    Raises: `CandorError` if something holds the pipes even then.
    """
    too_much = {process.stdout: slice(limits.output + 1, None), process.stderr: slice(-4096)}
    held = {pipe: bytearray() for pipe in too_much}
    status, program, asleep, sampled = "", 0, 0.0, 0.0
    deadline = time.monotonic() + limits.net
    with selectors.DefaultSelector() as selector:
        for source in (*held, report):
            selector.register(source, selectors.EVENT_READ)
        while selector.get_map():
            longest = 0
            for source in (key.fileobj for key, _ in selector.select(_TICK)):
                if source is not report:
                    part = os.read(source.fileno(), 65536)
                    held[source] += part
                    del held[source][too_much[source]]
                    longest = max(longest, len(part))
                else:
                    part, notes, *_ = report.recvmsg(64, socket.CMSG_SPACE(12))
                    if part == b"begins":
                        program = struct.unpack("3i", notes[0][2])[0]
                    else:  # nothing is told if it killed who waits for it
                        status = status or (part.decode() or "error" if program else "none")
                if not part:
                    selector.unregister(source)
            now = time.monotonic()
            if program and not status and now - sampled >= _TICK:
                sampled = now
                asleep += _TICK * (longest < _PIPE and _sleeps(program))
                status = "timeout" if asleep >= limits.wall else ""
            if now > deadline and process.returncode is not None:
                raise CandorError(_refusal("a process outlives its sandbox"))
            status = status or ("busy" if now > deadline else "")
            if status and process.returncode is None:
                with suppress(ProcessLookupError):  # bubblewrap is in the group, and with it everything inside dies
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                deadline = now + limits.net
    return status, bytes(held[process.stdout]), bytes(held[process.stderr])


def _sleeps(program: int) -> bool:
    """Whether no thread of a process runs, waits for a processor or for a disk."""
    try:
        states = [path.read_text().rpartition(")")[2][1] for path in Path(f"/proc/{program}/task").glob("*/stat")]
    except OSError:  # it ends
        return False
    return bool(states) and not {"R", "D"} & set(states)


def _exception(stderr: str) -> str:
    """The exception that a traceback names: the first line at the margin below its last frame.

    >>> _exception('Traceback:\\n  File "/program.py", line 1\\n    f()\\nurllib.error.URLError: <no\\nhost>\\n')
    'urllib.error.URLError'
    """
    _, frame, below = stderr.rpartition("  File ")
    found = re.search(r"^([A-Za-z_][\w.]*)(?::|$)", below, re.MULTILINE)
    return found[1] if frame and found else ""


# --- The walls --------------------------------------------------------------------------------------

# The interpreter itself, not the link to it in a virtual environment.
_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
_IDLE = ("_tkinter", "_curses", "nis", "_dbm", "_gdbm")  # of no use without a screen, a network, a database


@cache
def _libraries() -> dict[str, str]:
    """Interpreter, standard library and the shared libraries that they name, by where a program sees them, and "" for
    what is hidden: all of this machine that it sees, at places that tell nothing about where they lie here."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    modules = [str(path) for path in stdlib.glob("lib-dynload/*.so") if not path.name.startswith(_IDLE)]
    told = subprocess.run(["ldd", _PYTHON, *modules], capture_output=True, text=True, check=False).stdout
    seen = f"/python/{sys.platlibdir}/{stdlib.name}"
    found = {"/python/bin/python": _PYTHON, seen: str(stdlib)}
    found |= {f"{seen}/{packages.name}": "" for packages in stdlib.glob("*-packages")}
    for name, place in re.findall(r"^\s*(\S+)(?: => (/.*?))? \(0x", told, re.MULTILINE):
        if place or name.startswith("/"):  # the loader has a whole path for a name
            found.setdefault(name if name.startswith("/") else f"/libraries/{name}", place or name)
    return found


# Calls of the kernel on x86-64, by name and number: what an interpreter needs that reads, computes and writes.
_ALLOWED = """
read 0 write 1 open 2 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12 rt_sigaction 13
rt_sigprocmask 14 rt_sigreturn 15 pread64 17 pwrite64 18 readv 19 writev 20 access 21 pipe 22 select 23 sched_yield 24
mremap 25 msync 26 madvise 28 dup 32 dup2 33 pause 34 nanosleep 35 getitimer 36 alarm 37 setitimer 38 getpid 39
recvfrom 45 shutdown 48 getsockname 51 getsockopt 55 exit 60 wait4 61 kill 62 uname 63 fcntl 72 flock 73 fsync 74
fdatasync 75 truncate 76 ftruncate 77 getcwd 79 chdir 80 fchdir 81 rename 82 mkdir 83 rmdir 84 unlink 87 symlink 88
readlink 89 chmod 90 fchmod 91 umask 95 gettimeofday 96 getrlimit 97 getrusage 98 sysinfo 99 times 100 getuid 102
getgid 104 geteuid 107 getegid 108 getppid 110 getgroups 115 sigaltstack 131 statfs 137 fstatfs 138 arch_prctl 158
gettid 186 listxattr 194 llistxattr 195 tkill 200 time 201 futex 202 sched_getaffinity 204 getdents64 217
set_tid_address 218 restart_syscall 219 clock_gettime 228 clock_getres 229 clock_nanosleep 230 exit_group 231
epoll_wait 232 epoll_ctl 233 tgkill 234 openat 257 mkdirat 258 newfstatat 262 unlinkat 263 renameat 264 symlinkat 266
readlinkat 267 fchmodat 268 faccessat 269 pselect6 270 ppoll 271 set_robust_list 273 utimensat 280 epoll_pwait 281
fallocate 285 epoll_create1 291 dup3 292 pipe2 293 renameat2 316 getrandom 318 statx 332 rseq 334 close_range 436
faccessat2 439
"""
_CALLS = frozenset(map(int, re.findall(r" (\d+)", _ALLOWED)))
# And these where an argument, of which the bits of a mask count, is one of some values.
_CHECKED = {
    16: (1, 0xFFFFFFFF, (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)),  # ioctl: is it a terminal, do not block, inherit
    44: (5, 0xFFFFFFFF, (0,)),  # sendto: to nobody but the other end
    53: (0, 0xFFFFFFFF, (socket.AF_UNIX,)),  # socketpair: asyncio wakes itself by one
    56: (0, 0x7E030000, (0x10000,)),  # clone: a thread, in the same namespaces
    302: (0, 0xFFFFFFFF, (0,)),  # prlimit64: of the process itself
}
_NEWER = 424  # calls from here on are refused as unknown, so that libc takes the older ones: clone for clone3


@cache
def _rules() -> bytes:
    """A seccomp filter that lets the kernel answer the calls above, and to others only that they are not permitted.

    Raises: `CandorError` on a processor whose calls are not known here.
    """
    if os.uname().machine != "x86_64":
        raise CandorError(
            f"Programs that a model wrote are run on x86-64 alone, and this is {os.uname().machine}, where the "
            "sandbox was never tried: run the steps of code models elsewhere, or leave them out by models.code: null."
        )
    load, equal, at_least, bits, end = 0x20, 0x15, 0x35, 0x54, 0x06
    allow, forbid, unknown = 0x7FFF0000, 0x00050001, 0x00050026  # EPERM, ENOSYS
    # Operation, steps to skip if it holds and if not, operand; of what is called: number at 0, processor at 4,
    # arguments from 16. The 32-bit calls of the same processor have another number of it.
    steps = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (end, 0, 0, forbid), (load, 0, 0, 0)]
    for call in sorted(_CALLS):
        steps += [(equal, 0, 1, call), (end, 0, 0, allow)]
    for call, (argument, mask, values) in _CHECKED.items():
        own = [(load, 0, 0, 16 + 8 * argument), (bits, 0, 0, mask)]
        own += [step for value in values for step in ((equal, 0, 1, value), (end, 0, 0, allow))]
        steps += [(equal, 0, len(own) + 1, call), *own, (end, 0, 0, forbid)]
    steps += [(at_least, 0, 1, _NEWER), (end, 0, 0, unknown), (end, 0, 0, forbid)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _bubblewrap(scratch: int, program: int, stdin: int) -> list[str]:
    if os.geteuid():
        user = ("--unshare-user", "--uid", "65534", "--gid", "65534")
    else:
        # Root needs no user namespace: in one it would still be root to the kernel, whom no limit on processes binds.
        # The launcher makes it a user without rights or capabilities instead.
        user = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    folders = dict.fromkeys(f for seen in (*_libraries(), "/dev/null") for f in reversed(Path(seen).parents[:-1]))
    seen = _libraries().items()
    binds = (("--ro-bind", at, place) if at else ("--tmpfs", place, "--remount-ro", place) for place, at in seen)
    return [
        *(shutil.which("bwrap") or "bwrap", *user, "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--hostname", "sandbox", "--die-with-parent", "--new-session", "--as-pid-1"),
        *("--clearenv", "--setenv", *_HASHES, "--setenv", "LD_LIBRARY_PATH", "/libraries"),
        *(part for folder in folders for part in ("--perms", "0755", "--dir", str(folder))),
        *(part for bind in binds for part in bind),
        *(part for name in ("null", "zero", "random", "urandom") for part in ("--dev-bind", *2 * (f"/dev/{name}",))),
        *("--perms", "0444", "--file", str(stdin), "/dev/stdin", "--perms", "0444", "--file", str(program)),
        *("/program.py", "--perms", "0777", "--size", str(scratch), "--tmpfs", "/scratch", "--chdir", "/scratch"),
        *("--remount-ro", "/", "--"),
    ]


# --- Whether they hold ------------------------------------------------------------------------------

_WAYS = {
    "bubblewrap": "install bubblewrap (0.8 or newer; on Debian and Ubuntu `apt-get install bubblewrap`), or allow its "
    "profile (`bwrap` has to make user namespaces, which Ubuntu 24.04 and later forbid by AppArmor), or run in a "
    "disposable container without a network and say so by models.sandbox: container in the scale's configuration",
    "container": "use a disposable container without a network whose kernel filters system calls (seccomp), or install "
    "bubblewrap and set models.sandbox to bubblewrap",
}


def _refusal(reason: str, kind: str = "bubblewrap") -> str:
    reason = " ".join(reason.split())[:200].rstrip(".")
    return f"Programs that a model wrote cannot be run safely here ({reason}): {_WAYS[kind]}."


# What a program must not be able to do, and a statement that would do it.
_WALLS = {
    "starts a process": "os.fork() or os._exit(0)",
    "makes a user namespace": "call(272, 0x10000000)",
    "reaches a network": "import socket; socket.socket(2, 2).connect(('192.0.2.1', 9))",
    "reads keyrings": "call(250, 0, -3, 0)",
    "makes shared memory": "call(29, 0, 4096, 0o1600)",
    "opens a socket to the host of a virtual machine": "call(41, 40, 1, 0)",
    "uses io_uring": "call(425, 8, bytes(120))",
    "uses userfaultfd": "call(323, 1)",
    "counts events of the processor": "call(298, struct.pack('IIQ', 1, 112, 0) + bytes(96), 0, -1, -1)",
    "traces a process": "call(101, 0, 0, 0, 0)",
    "calls the kernel where it may not": "assert [n for n in {others} if asked(n)]",
    "takes more memory than it may": "bytearray(800_000_000)",
}
_HIDDEN = {  # by bubblewrap alone
    "writes files of this machine": "open({made!r}, 'w')",
    "reads files of this machine": "open({secret!r})",
    "writes beside its folder": "open('/made', 'w')",
    "sees more than the standard library": "assert set(os.listdir('/')) - {places} or [f for f in sys.path for p in "
    "('/site-packages', '/dist-packages') if os.path.isdir(f + p) and os.listdir(f + p)]",
}
_TRY = """
import ctypes, os, struct, sys
kernel = ctypes.CDLL(None, use_errno=True)
def asked(number, *values):
    return kernel.syscall(number, *values, *[0] * (6 - len(values))) != -1 or ctypes.get_errno() not in (1, 38)
def call(*values):
    assert asked(*values)
for wall, way in {walls}.items():
    try: exec(way)
    except BaseException: pass
    else: print(wall, flush=True)
"""


def _walls(kind: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o666)
        Path(folder).chmod(0o777)
        own = {"secret": str(secret), "made": f"{folder}/made"}
        own["others"] = set(range(512)) - _CALLS - set(_CHECKED) - {335, 336}  # whose misuse ends a program
        own["places"] = {"dev", "program.py", "scratch", *(Path(place).parts[1] for place in _libraries())}
        walls = _WALLS | (_HIDDEN if kind == "bubblewrap" else {})
        found = _judged(_TRY.format(walls={wall: way.format(**own) for wall, way in walls.items()}), "", LIMITS, kind)
    through = found.stdout.split("\n")[0] or (found.status != "exited" and "breaks off the self-test")
    return f"a program {through}" if through else None


_ENDS = (  # what is wrong, unless a program ends so within its limits
    ("a program fails", "import threading as t\nt.Thread(target=print).start()\nassert input() == '41'", {}, "exited"),
    ("a loop is not stopped", "from signal import *\nsignal(SIGXCPU, SIG_IGN)\nwhile 1: pass", {"cpu": 1}, "timeout"),
    ("a program that sleeps is not stopped", "import time\ntime.sleep(3600)", {"wall": 0.5}, "timeout"),
    ("much output fills the memory", "for _ in range(100): print('x' * 1_000_000)", {}, "cut"),
)


def _ends(kind: str, wrong: str, program: str, limits: dict, how: str) -> str | None:
    found = _judged(program, "41", replace(LIMITS, **limits), kind)
    return None if how == ("cut" if found.cut else found.status) else f"{wrong}: {found.error or found.status}"


@cache
def check(kind: str = "bubblewrap") -> None:
    """The self-test, once a process. Raises: `CandorError` in one sentence if the sandbox is missing or leaks."""
    _rules()
    if kind == "bubblewrap" and shutil.which("bwrap") is None:
        raise CandorError(_refusal("bubblewrap is not installed"))
    with ThreadPoolExecutor(4) as pool:
        walls = pool.submit(_walls, kind)
        for wrong in (*pool.map(lambda attempt: _ends(kind, *attempt), _ENDS), walls.result()):
            if wrong:
                raise CandorError(_refusal(wrong, kind))


# --- Many runs --------------------------------------------------------------------------------------


def _judged(program: str, stdin: str, limits: Limits, kind: str) -> Outcome:
    """What a program does. Raises: `CandorError` where the machine is too busy to tell."""
    for _ in range(3):
        found = _run(program, stdin, limits, kind)
        if found.status != "busy":
            return found
    raise CandorError(
        f"Three times a program had not got its {limits.cpu} seconds of a processor after {limits.net:.0f} seconds, so "
        "it cannot be judged: run fewer jobs at once (--cores), or run again when this machine is less busy."
    )


_remembered = lru_cache(maxsize=2**14)(_judged)


class Pool:
    """Runs programs side by side; what a program did with an input is remembered, for all pools of a process.

    Threads: what works is another process. `workers` None: as many as this process may use cores.
    """

    def __init__(self, kind: str = "bubblewrap", workers: int | None = None, limits: Limits = LIMITS):
        check(kind)
        self.workers = workers or len(os.sched_getaffinity(0))
        self.limits, self.kind = limits, kind

    def run(self, program: str, stdin: str, expected: str = "") -> Outcome:
        """What the program does, run once for each input; of its output so much is kept as `expected` asks for.

        Raises: `CandorError` where the machine is too busy to tell; that is not remembered.
        """
        output = max(self.limits.output, 2 * len(expected.encode("utf-8", "replace")))
        return _remembered(program, stdin, replace(self.limits, output=output), self.kind)

    def map(self, function: Callable, *items: Iterable) -> list:
        """`function` of each of the items, in their order; call `run` in it."""
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(function, *items))
