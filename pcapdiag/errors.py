"""What pcapdiag raises, and nothing else.

PcapdiagError            everything the command line turns into one line and exit code 2
├── CaptureError         an input that cannot be read, or is no capture
├── OptionError          a choice the program cannot follow (usage, configuration)
└── OutputError          a report that cannot be written
"""

from __future__ import annotations


class PcapdiagError(Exception):
    """The message says what, where and what was seen; it is printed as it is."""


class CaptureError(PcapdiagError):
    """An input cannot be opened or is not a capture."""


class OptionError(PcapdiagError):
    """An option or configuration value cannot be followed."""


class OutputError(PcapdiagError):
    """A report cannot be written."""
