"""Ctrl-C while the program is still being imported: silence and exit code 130, for nothing is open yet that needs closing.

Importing this module takes SIGINT over, where nobody else has; `give_back` ends that. It imports next to nothing itself.
"""

from __future__ import annotations

import os
import signal

_INTERRUPTED = 130


def _end(_number: int, _frame: object) -> None:
    os._exit(_INTERRUPTED)


def _replace(old: object, new: object) -> None:
    if signal.getsignal(signal.SIGINT) is old and callable(new):
        try:
            signal.signal(signal.SIGINT, new)
        except ValueError:  # not the main thread: signals are not its business
            return


def give_back() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt again."""
    _replace(_end, signal.default_int_handler)


_replace(signal.default_int_handler, _end)
