"""Exit codes: part of the interface."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How the program ended."""

    OK = 0
    """Analysed, gate not hit."""
    GATE = 1
    """A finding as severe as --fail-on names."""
    UNUSABLE = 2
    """Usage, configuration, an input that is no capture, an output that cannot be written."""
    POOR = 3
    """Analysed, but a capture is below --require-quality."""
    INTERNAL = 70
    """A bug; of a crashed detector, the rest is still reported."""
    INTERRUPTED = 130
