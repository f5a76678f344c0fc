"""Wireshark's TCP analysis and ours say the same of the same packets; tshark_flags.py says where they differ on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.pipeline import load
from tests.tshark_flags import NAMES, differences

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "captures"
CAPTURES = [
    "lab/link-blackout/server.pcap",
    "lab/reordering-control/server.pcap",
    "lab/slow-client/client.pcap",
    "lab/tail-loss-rto/client.pcap",
    "public/blitz+tcptrace/input/discard.solaris.dmp.gz",
    "public/wireshark+wireshark/test/captures/challenge01_ooo_stream.pcapng.gz",
]
SAMPLES = sorted((ROOT / "samples").glob("*/client.pcap"))
PATHS = [SHARED / name for name in CAPTURES] if SHARED.is_dir() else SAMPLES

FEW, SHARE = 2, 0.99


@pytest.mark.tshark
@pytest.mark.parametrize("path", PATHS, ids=lambda path: "/".join(path.parts[-2:]))
def test_what_wireshark_says_of_a_packet_we_say(path: Path) -> None:
    trace = load(str(path))
    told = differences(trace, path)
    apart = {
        name: (agree, missed, extra)
        for name, (agree, missed, extra) in told.items()
        if max(len(missed), len(extra)) > FEW and agree / (agree + max(len(missed), len(extra))) < SHARE
    }
    assert apart == {}, "name -> (agreeing packets, frames only tshark names, frames only we name)"
    assert told["window"][0] > 0.99 * len(trace.segments)


@pytest.mark.tshark
def test_these_captures_show_what_is_compared() -> None:
    seen = dict.fromkeys(NAMES, 0)
    for path in PATHS:
        for name, (agree, _, _) in differences(load(str(path)), path).items():
            seen[name] += agree
    rare = {"reused_ports"}
    assert {name for name, count in seen.items() if not count} <= rare


@pytest.mark.tshark
@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled captures are not here")
def test_ports_used_again_begin_new_flows_where_wireshark_says_so() -> None:
    path = SHARED / "public/blitz+tcptrace/input/fast_reuse.dmp.gz"
    assert differences(load(str(path)), path)["reused_ports"] == (17, [], [])
