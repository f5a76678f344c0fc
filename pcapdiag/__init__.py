"""pcapdiag: what the network did to an agent's requests.

The names of __all__ are the public interface; nothing else is promised. They are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own is this too; importing it takes half the time until Ctrl-C is ours (interrupt.py)
if TYPE_CHECKING:
    from typing import Final

    from pcapdiag.errors import CaptureError, OptionError, OutputError, PcapdiagError
    from pcapdiag.findings import Detector, Diagnosis, Finding
    from pcapdiag.pipeline import diagnose, load
    from pcapdiag.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "Detector",
    "Diagnosis",
    "Finding",
    "OptionError",
    "OutputError",
    "PcapdiagError",
    "Trace",
    "diagnose",
    "load",
]

_PLACES: Final = {
    "CaptureError": "pcapdiag.errors",
    "Detector": "pcapdiag.findings",
    "Diagnosis": "pcapdiag.findings",
    "Finding": "pcapdiag.findings",
    "OptionError": "pcapdiag.errors",
    "OutputError": "pcapdiag.errors",
    "PcapdiagError": "pcapdiag.errors",
    "Trace": "pcapdiag.trace",
    "diagnose": "pcapdiag.pipeline",
    "load": "pcapdiag.pipeline",
}


def __getattr__(name: str) -> object:
    """Imports a public name's module (PEP 562): `pcapdiag --help` must not wait for NumPy."""
    if name not in _PLACES:
        raise AttributeError(f"module 'pcapdiag' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
