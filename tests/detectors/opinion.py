"""What one detector concludes from a capture, alone; and the same capture cut short anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pcapdiag.pipeline import diagnose, load
from pcapdiag.stalls import keep_ledger

if TYPE_CHECKING:
    from pcapdiag.findings import Conclusion, Detector
    from pcapdiag.trace import Trace
    from tests.wire import Recording

LAB = Path(__file__).parents[3] / "shared" / "captures" / "lab"


def conclusions(detector: Detector, trace: Trace) -> list[Conclusion]:
    """Runs signs, ledger and conclude of one detector."""
    signs = list(detector.signs(trace, detector.limits)) if detector.signs else []
    return list(detector.conclude(keep_ledger(trace, signs), signs, trace))


def of_cuts(detector: Detector, recording: Recording, folder: Path, *, pieces: int = 25) -> list[list[Conclusion]]:
    """Conclusions of the first bytes of a capture, for cuts spread over its length."""
    data = recording.pcap()
    results = []
    for cut in range(24, len(data), max(1, len(data) // pieces)):
        path = folder / "cut.pcap"
        path.write_bytes(data[:cut])
        results.append(conclusions(detector, load(str(path))))
    return results


def diagnosed(detector: Detector, trace: Trace) -> list[Conclusion]:
    """What a user would be told by one detector: its findings of the whole run, which must crash nowhere."""
    diagnosis = diagnose(trace, [detector])
    assert diagnosis.failures == ()
    return [finding.conclusion for finding in diagnosis.findings if finding.code == detector.code]
