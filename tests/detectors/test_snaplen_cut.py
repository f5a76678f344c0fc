"""snaplen-cut: packets captured in part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pcapdiag.detectors.snaplen_cut import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import conclusions, of_cuts
from tests.wire import Wire

if TYPE_CHECKING:
    from pcapdiag.trace import Trace


def talk() -> Wire:
    return Wire().handshake().http_get(body=20_000, think_ms=300).close()


def cut(folder: Path, snaplen: int = 96) -> Trace:
    path = folder / "short.pcap"
    path.write_bytes(talk().pcap(snaplen=snaplen))
    return load(str(path))


def test_fires_for_cut_packets(tmp_path: Path) -> None:
    (found,) = conclusions(DETECTOR, cut(tmp_path))
    assert (found.kind, found.lowers_verdict) == (FindingKind.CAPTURE, True)
    assert found.details["snaplens"] == [96]
    assert found.details["cut_frames"] == found.details["tcp_data_packets"]
    assert found.frames


def test_a_short_snaplen_invents_no_loss(tmp_path: Path) -> None:
    causes = {f.code for f in diagnose(cut(tmp_path)).findings if f.conclusion.kind is FindingKind.CAUSE}
    assert causes <= {"server-think"}


def test_whole_packets_stay_quiet(tmp_path: Path) -> None:
    assert conclusions(DETECTOR, cut(tmp_path, snaplen=1_514)) == []


def test_a_file_cut_at_its_end_is_not_a_snaplen(tmp_path: Path) -> None:
    assert all(found == [] for found in of_cuts(DETECTOR, talk(), tmp_path))
