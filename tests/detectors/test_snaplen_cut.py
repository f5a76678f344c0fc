"""snaplen-cut: packets captured in part."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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


@pytest.mark.parametrize(("snaplen", "sure"), [(64, 0.6), (80, 0.95), (1_514, 0.95)])
def test_where_it_cut_options_a_resend_may_have_been_needless(snaplen: int, sure: float, tmp_path: Path) -> None:
    """SACK blocks and timestamps would tell; cut behind the headers, data is all that is missing."""
    wire = Wire().handshake().send(300).reply(300).wait(ms=50).send(300, lose="after").wait(ms=300).resend().reply(300)
    path = tmp_path / "lost.pcap"
    path.write_bytes(wire.close().pcap(snaplen=snaplen))
    (found,) = (f for f in diagnose(load(str(path))).findings if f.code == "tail-loss-rto")
    assert found.conclusion.confidence.value == sure


def test_one_packet_cut_in_its_options_makes_nobody_doubt_the_others(tmp_path: Path) -> None:
    wire = Wire().handshake().send(300).reply(300).wait(ms=50).send(300, lose="after").wait(ms=300).resend().reply(300)
    whole = wire.close().pcap(snaplen=1_514)
    at, cut = 24, 0
    records = [whole[:at]]
    while at < len(whole):
        seconds, fraction, captured, length = struct.unpack_from("<IIII", whole, at)
        kept = 64 if length == 66 and not cut else captured  # a pure ACK with timestamps
        cut += kept < captured
        records.append(struct.pack("<IIII", seconds, fraction, kept, length) + whole[at + 16 : at + 16 + kept])
        at += 16 + captured
    assert cut == 1
    path = tmp_path / "one.pcap"
    path.write_bytes(b"".join(records))
    (found,) = (f for f in diagnose(load(str(path))).findings if f.code == "tail-loss-rto")
    assert found.conclusion.confidence.value == 0.95


def test_whole_packets_stay_quiet(tmp_path: Path) -> None:
    assert conclusions(DETECTOR, cut(tmp_path, snaplen=1_514)) == []


def test_a_file_cut_at_its_end_is_not_a_snaplen(tmp_path: Path) -> None:
    assert all(found == [] for found in of_cuts(DETECTOR, talk(), tmp_path))
