"""The command line's outermost frame: every way to end has its exit code and at most one line on stderr."""

from __future__ import annotations

import pcapdiag.interrupt  # isort: skip  # first: Ctrl-C during the imports below must not end in a traceback

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from pcapdiag.cli import cli
from pcapdiag.cli.exits import Exit
from pcapdiag.cli.terminal import drop_output, has_stdout, say, unwritable
from pcapdiag.errors import OutputError, PcapdiagError

pcapdiag.interrupt.give_back()
# NumPy, imported when a command runs, would start a thread per core for matrices, of which there are none here, and again after each fork.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a device says that takes nothing more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives its exit code; `arguments` default to the program's own."""
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        if has_stdout():
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()  # who read us has enough
        return Exit.OK
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except PcapdiagError as error:
        say(str(error))
        return Exit.UNUSABLE
    except MemoryError as error:
        say(f"not enough memory ({str(error) or 'none is left'}): try --jobs 1, a smaller --memory, or fewer files at a time")
        return Exit.UNUSABLE
    except Exception as error:  # noqa: BLE001 - the end of the road: whatever it is becomes one line and exit code 70
        _report(error)
        return Exit.INTERNAL
    return code


def _run(arguments: Sequence[str]) -> int:
    """Click without its own ending, which gives a closed pipe exit code 1."""
    try:
        with cli.make_context("pcapdiag", list(arguments)) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.UNUSABLE
    except OSError as error:  # of --help and --version, which Click prints
        if error.errno not in _FULL or error.filename is not None:
            raise
        raise OutputError(unwritable(error)) from error
    return code if isinstance(code, int) else Exit.OK


def _report(error: Exception) -> None:
    if os.environ.get("PCAPDIAG_DEBUG") == "1":
        traceback.print_exception(error)
    at = traceback.extract_tb(error.__traceback__)[-1]
    say(
        f"internal error: {type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno}); this is a bug: please report this "
        "line with the command you ran (PCAPDIAG_DEBUG=1 adds the traceback)"
    )


if __name__ == "__main__":
    sys.exit(main())
