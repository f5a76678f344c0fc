"""Ctrl-C while the program is being imported ends it in silence."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import pcapdiag.__main__  # noqa: F401 - importing it must not change what Ctrl-C means to others
from pcapdiag import interrupt

PROGRAM = """
import importlib.abc, os, signal, sys
class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
import pcapdiag.__main__
sys.exit(pcapdiag.__main__.main(["analyze", "no-such-file"]))
"""


@pytest.mark.parametrize("module", ["click", "pcapdiag.cli", "pcapdiag.errors", "pcapdiag.cli.analyze", "pcapdiag.pipeline", "numpy"])
def test_ctrl_c_during_any_import_is_silent(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, module], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, b"", b"")


def test_it_is_given_back() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupt.give_back()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
