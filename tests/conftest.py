"""Tests that run programs in the sandbox are marked; where it cannot work they are left out, and loudly."""

from functools import cache

import pytest
from candor.claims.sophistry import sandbox
from candor.core.errors import CandorError
from jaxtyping import install_import_hook

# The shapes that the signatures of these modules promise are checked in every test.
install_import_hook([f"candor.train.{name}" for name in ("sharing", "sharing_long")], "beartype.beartype")

_left_out: list[str] = []


@cache
def refusal() -> str | None:
    """Why no program can run here, None if one can."""
    try:
        sandbox.check()
    except CandorError as error:
        return str(error)


def pytest_configure(config):
    config.addinivalue_line("markers", "sandbox: runs programs under bubblewrap")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.get_closest_marker("sandbox") and refusal():
        _left_out.append(item.nodeid)
        pytest.skip(refusal())


def pytest_terminal_summary(terminalreporter):
    if _left_out:
        line = f"WARNING: {len(_left_out)} sandbox tests did not run because {refusal()}"
        terminalreporter.write_line(line, yellow=True, bold=True)
