"""The sandbox: programs that try to break out, and what a machine without one is told."""

import os
import resource
import shutil
import stat
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from candor import sandbox
from candor.errors import CandorError
from candor.sandbox import LIMITS, run_untrusted

held = pytest.mark.sandbox


def run(program: str, stdin: str = "", **limits):
    return run_untrusted(program, stdin, replace(LIMITS, **limits))


def attempt(*lines: str) -> str:
    """What a program printed that tries one thing: `done`, or the name of the exception that stopped it."""
    body = "\n    ".join(lines)
    found = run(f"import os\ntry:\n    {body}\n    print('done')\nexcept BaseException as e: print(type(e).__name__)")
    return found.stdout.strip()


def openings(places, mode: str = "r") -> list[str]:
    """What stopped a program, in one run, from opening each place: names of exceptions, or `done`."""
    each = "    try: open(place, mode)\n    except Exception as e: print(type(e).__name__)\n    else: print('done')"
    return run(f"mode = {mode!r}\nfor place in {list(map(str, places))!r}:\n{each}").stdout.split()


# --- What a program may do --------------------------------------------------------------------------


@held
def test_a_program_reads_its_input_and_prints():
    assert run("a, b = map(int, open('/dev/stdin').read().split())\nprint(a + b)", "20 22").stdout == "42\n"
    assert run("import math, heapq, collections, bisect, decimal\nprint(math.pi)").status == "exited"
    assert run("open('notes', 'w').write('x' * 1000)\nprint(len(open('notes').read()))").stdout == "1000\n"
    assert (
        run("import threading\nt = threading.Thread(target=print, args=('hi',))\nt.start()\nt.join()").stdout == "hi\n"
    )


@held
@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        ("print(1)", "exited", ""),
        ("x = [1]\nprint(x[1])", "error", "IndexError"),
        ("import sys\nsys.exit(3)", "error", ""),
        ("def f(:", "error", "SyntaxError"),
        ("import os\nos.kill(os.getpid(), 9)", "error", ""),
        ("import numpy", "error", "ModuleNotFoundError"),
        ("", "exited", ""),
    ],
)
def test_how_a_program_ended(program, status, error):
    found = run(program)
    assert (found.status, found.error) == (status, error)


@held
def test_the_same_program_does_the_same():
    program = "print(hash('a'), list({'a', 'b', 'c', 'd', 'e'}))"
    assert run(program).stdout == run(program).stdout != ""


# --- What it may not --------------------------------------------------------------------------------


@held
def test_no_network():
    connect = "import socket; socket.create_connection(('{}', {}), 1)"
    assert attempt(connect.format("192.0.2.1", 80)) == "OSError"
    with sandbox.socket.create_server(("127.0.0.1", 0)) as server:
        assert attempt(connect.format("127.0.0.1", server.getsockname()[1])) == "ConnectionRefusedError"


@held
def test_nothing_of_this_machine_can_be_read(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    monkeypatch.setenv("CANDOR_SECRET", "secret")
    places = (secret, "/etc/passwd", Path(__file__), Path.home() / ".bashrc", f"/proc/{os.getpid()}/environ")
    assert openings(places) == ["FileNotFoundError"] * len(places)
    assert "secret" not in run("import os\nprint(os.environ)\nprint(open('/proc/self/environ').read())").stdout
    assert attempt(f"os.symlink({str(tmp_path)!r}, 'link'); print(os.listdir('link'))") == "FileNotFoundError"
    seen = run("import os\nprint(*[p for p in os.listdir('/proc') if p.isdigit()])").stdout.split()
    assert len(seen) <= 3, "its own processes and no others"
    pipes = "import os\nfor f in os.listdir('/proc/self/fd'):\n"
    pipes += "  try: print(os.readlink(f'/proc/self/fd/{f}'))\n  except OSError: pass"
    assert {name.split(":")[0] for name in run(pipes).stdout.split("\n")} <= {"/memfd", "pipe", ""}, "input and output"


@held
def test_nothing_can_be_written_but_the_scratch_folder(tmp_path):
    tmp_path.chmod(0o777)
    inside = [sandbox._python(), "/made", "/dev/shm/made", "/usr/lib/made", "/lib/made", os.__file__]
    outside = (tmp_path / "made", sandbox.tempfile.gettempdir() + "/made", "/proc/sys/kernel/core_pattern")
    told = openings((*inside, *outside), "w")
    assert len(told) == len(inside) + 3 and set(told) <= {"OSError", "PermissionError", "FileNotFoundError"}, told
    assert attempt(f"os.symlink({str(tmp_path)!r}, 'link'); open('link/made', 'w')") == "FileNotFoundError"
    assert attempt("os.mkdir('/proc/self/root/made')") in ("OSError", "PermissionError")
    assert not list(tmp_path.iterdir())


@held
def test_nothing_stays_behind():
    assert run("open('left', 'w').write('x')").status == "exited"
    assert run("import os\nprint(os.listdir('.'))").stdout == "[]\n"


@held
def test_no_rights_and_no_way_to_get_them():
    status = run("print(open('/proc/self/status').read())").stdout
    rights = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("Cap", "NoNew", "Uid")))
    assert {int(rights[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")} == {0}
    assert rights["NoNewPrivs"] == "1" and "0" not in rights["Uid"].split()
    assert attempt("os.setuid(0)") == "PermissionError" and attempt("os.chroot('.')") == "PermissionError"
    assert attempt("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))") == "ValueError"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "this process keeps its own limits"


@held
def test_no_user_namespace_inside():
    """In one of its own a program would be root, and could mount memory without a limit."""
    new = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    for call in ("libc.unshare(0x10000000)", "libc.unshare(0x10020000)"):
        assert run(f"{new}print({call}, ctypes.get_errno())").stdout == "-1 1\n"
    assert run("import subprocess, sys\nsubprocess.run([sys.executable, '-c', '1'], check=True)").status == "exited"


@held
def test_signals_do_not_reach_the_parent():
    assert attempt("os.kill(os.getppid(), 0); os.kill(os.getppid(), 15)") in ("done", "PermissionError")
    assert attempt(f"os.kill({os.getpid()}, 15)") == "ProcessLookupError"
    assert run("import os\nos.kill(-1, 9)").status in ("error", "exited")
    assert run("print('alive')").stdout == "alive\n"


@held
@pytest.mark.parametrize(
    ("program", "limits"),
    [
        ("while True: pass", {"cpu": 1, "wall": 30.0}),
        ("import time\ntime.sleep(60)", {"wall": 0.6}),
        ("while 1: print(1)", {"wall": 0.6}),
    ],
)
def test_an_endless_loop_is_stopped(program, limits):
    assert run(program, **limits).status == "timeout"


@held
def test_a_deaf_program_is_stopped_too():
    deaf = (
        "import signal, os\nfor s in range(1, 32):\n  try: signal.signal(s, signal.SIG_IGN)\n  except OSError: pass\n"
    )
    assert run(f"{deaf}os.close(1)\nos.close(2)\nwhile True: pass", cpu=9, wall=0.6).status == "timeout"


@held
def test_a_memory_hog_fails():
    assert run("x = bytearray(800_000_000)").error == "MemoryError"
    assert run("x = []\nwhile True: x.append(bytearray(10_000_000))").error == "MemoryError"
    assert run("open('big', 'wb').write(bytes(5_000_000))").status == "error", "a file has its limit"
    many = "for i in range(64): open(str(i), 'wb').write(bytes(1_000_000))"
    assert run(many).error == "OSError", "and so has the folder"
    assert run("f = [open('/dev/null') for _ in range(64)]").error == "OSError"


@held
def test_50_mb_of_output_do_not_fill_the_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = run("for _ in range(50): print('x' * 1_000_000)", wall=30.0)
    assert found.status == "exited" and len(found.stdout) == LIMITS.output and found.cut
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
    noise = run("import sys\nwhile True: sys.stderr.write('x' * 100_000)", wall=0.4)
    assert noise.status == "timeout" and noise.stdout == ""


@held
def test_a_fork_bomb_dies_with_its_sandbox():
    counting = "import os, time\nn = 0\ntry:\n  while n < 200:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\n"
    found = run(f"{counting}except OSError: print(n)")
    assert 0 < int(found.stdout) < LIMITS.processes
    # The run comes back only when nothing holds its pipes any more.
    assert run("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", wall=0.5).status == "timeout"
    daemon = "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(60)\nprint('left')"
    assert run(daemon).stdout == "left\n"


# --- Where there is no sandbox ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_self_test(request, monkeypatch):
    """A test without a sandbox makes the self-test itself; the others share one."""
    if not request.node.get_closest_marker("sandbox"):
        monkeypatch.setattr(sandbox, "check", cache(sandbox.check.__wrapped__))


def refused(kind: str = "bubblewrap") -> str:
    with pytest.raises(CandorError) as told:
        run_untrusted("print(1)", kind=kind)
    return str(told.value)


def test_without_bubblewrap_one_sentence_names_three_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused()
    assert "bubblewrap is not installed" in said and said.count(". ") == 0 and said.endswith(".")
    for way in ("apt-get install bubblewrap", "allow its profile", "models.sandbox: container"):
        assert way in said


def test_forbidden_user_namespaces_are_told(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "setting up uid map: Permission denied" in refused()


def test_a_wall_with_a_hole_runs_nothing(monkeypatch, tmp_path):
    """A bubblewrap that walls off nothing; what floods the machine is not tried without walls."""
    monkeypatch.setattr(sandbox, "_ATTEMPTS", (sandbox._works, sandbox._network, sandbox._files, sandbox._nested))
    fake = tmp_path / "bwrap"
    fake.write_text(
        f"#!{shutil.which('python')}\nimport os, subprocess, sys\nplace = sys.argv.index('--')\n"
        "fds = [int(a[len('/proc/self/fd/'):]) for a in sys.argv if a.startswith('/proc/self/fd/')]\n"
        "done = subprocess.run(sys.argv[place + 1 :], pass_fds=fds)\n"
        "os.write(int(sys.argv[place - 1]), b'{\"exit-code\": %d}' % (done.returncode % 256))\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "_user", lambda kind: 0)
    assert "a program reaches" in refused() or "reads or writes files" in refused()


def test_a_container_with_a_network_is_refused(monkeypatch):
    """The two attempts that need no namespaces; here a route is there or is made up."""
    monkeypatch.setattr(sandbox, "_LIMITED", (sandbox._works, lambda kind: "a program reaches a network"))
    said = refused("container")
    assert "a program reaches a network" in said and "disposable container without a network" in said


def test_limits_hold_in_a_container_too(monkeypatch):
    monkeypatch.setattr(sandbox, "_LIMITED", (sandbox._works, sandbox._loop, sandbox._memory, sandbox._output))
    left = set(Path(sandbox.tempfile.gettempdir()).glob("candor-*"))
    program = "import os\nopen('x', 'w').write('x')\nprint(int(input()) + 1, len(os.environ))"
    found = run_untrusted(program, "41", kind="container")
    assert found.status == "exited" and found.stdout.startswith("42 ")
    assert set(Path(sandbox.tempfile.gettempdir()).glob("candor-*")) == left


# --- Many -------------------------------------------------------------------------------------------


@held
def test_a_pool_keeps_the_order_and_runs_nothing_twice():
    pool = sandbox.Pool(workers=2)
    double = "print(2 * int(input()))"
    said = pool.map(lambda n: pool.run(double, str(n)).stdout, [3, 1, 2])
    assert said == ["6\n", "2\n", "4\n"]
    before = sandbox._remembered.cache_info().misses
    pool.map(lambda n: sandbox.Pool().run(double, str(n)), [1, 2])
    assert sandbox._remembered.cache_info().misses == before
