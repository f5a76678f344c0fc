"""Wireshark's TCP analysis and ours say the same of the same packets, but for classes that docs/agreement.md names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.agreement import page
from tests.agreement.classes import CLASSES
from tests.agreement.compare import Agreement, Tally, compare
from tests.agreement.ours import FACTS, Scene, their_facts
from tests.agreement.theirs import NONE, Theirs, dissect, nanoseconds

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "captures"
TRACES = "public/zeek+zeek/testing/btest/Traces"
CAPTURES = [
    "lab/link-blackout/server.pcap",
    "lab/reordering-control/server.pcap",
    "lab/slow-client/client.pcap",
    "lab/tail-loss-rto/client.pcap",
    "public/blitz+tcptrace/input/discard.solaris.dmp.gz",
    "public/blitz+tcptrace/input/fast_reuse.dmp.gz",
    "public/blitz+tcptrace/input/urgent.dmp.gz",
    "public/wireshark+wireshark/test/captures/challenge01_ooo_stream.pcapng.gz",
    f"{TRACES}/dce-rpc/20-fids-no-close.pcap",
    f"{TRACES}/smb/smb_v2_only_non_zero_reserved1.pcap",
]
SAMPLES = sorted((ROOT / "samples").glob("*/client.pcap"))
PATHS = [SHARED / name for name in CAPTURES] if SHARED.is_dir() else SAMPLES
PAGE = page.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def result() -> Agreement:
    return compare((str(path), path) for path in PATHS)


@pytest.mark.tshark
@pytest.mark.parametrize("fact", FACTS)
def test_what_wireshark_says_of_a_packet_we_say(result: Agreement, fact: str) -> None:
    tally = result.facts[fact]
    assert tally.agrees, (tally.missed, tally.extra, tally.frames)


@pytest.mark.tshark
@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples alone do not show every fact")
def test_these_captures_show_every_fact_and_are_decoded_whole(result: Agreement) -> None:
    assert {fact for fact, tally in result.facts.items() if not tally.both} == set()
    assert (sum(result.theirs_only.values()), result.unread) == (0, {})


@pytest.mark.tshark
@pytest.mark.parametrize("fact", ["again", "window", "ack_rtt"])
def test_a_difference_that_no_class_names_counts(fact: str) -> None:
    """Whatever tshark were to say of one packet more."""
    told = dissect(SAMPLES[0])
    columns = {name: column.copy() for name, column in told.columns.items()}
    plain = Scene.of(SAMPLES[0], told)
    row = int(plain.at[np.flatnonzero(plain.seg.payload_len > 0)[0]])
    columns[{"again": "retransmission"}.get(fact, fact)][row] = 1
    columns["acks_frame"][row] = 1
    agreement = Agreement()
    agreement.add(Scene.of(SAMPLES[0], Theirs(told.frame, columns, told.nested)), "x")
    assert agreement.facts[fact].missed == 1
    assert agreement.facts[fact].frames == [("x", int(told.frame[row]))]


@pytest.mark.tshark
@pytest.mark.skipif(not SHARED.is_dir(), reason="the public captures are not here")
def test_ports_used_again_begin_new_flows_where_wireshark_says_so() -> None:
    tally = compare([("reuse", SHARED / "public/blitz+tcptrace/input/fast_reuse.dmp.gz")]).facts["reused_ports"]
    assert (tally.both, tally.missed, tally.extra) == (17, 0, 0)


@pytest.mark.tshark
def test_a_round_trip_of_no_time_is_one() -> None:
    told = dissect(SAMPLES[0])
    columns = told.columns | {"ack_rtt": np.full(len(told.frame), NONE)}
    facts = their_facts(Scene.of(SAMPLES[0], Theirs(told.frame, columns, told.nested)))
    assert set(facts["ack_rtt"][facts["acks_frame"] != NONE].tolist()) == {0}


def test_one_packet_in_a_hundred_or_two_may_differ() -> None:
    assert Tally(both=99, missed=1, extra=1).agrees
    assert Tally(both=5, missed=2).agrees
    assert not Tally(both=196, missed=3).agrees
    assert not Tally(both=196, extra=3).agrees
    assert not Tally(missed=3).agrees


@pytest.mark.parametrize(
    ("text", "expected"), [("", NONE), ("0.000053576", 53_576), ("1.5", 1_500_000_000), ("-0.100000000", -100_000_000)]
)
def test_times_keep_their_nanoseconds(text: str, expected: int) -> None:
    assert nanoseconds(text) == expected


def test_every_class_is_explained_and_every_explanation_is_of_a_class() -> None:
    assert re.findall(r"^### (.*)$", PAGE, re.MULTILINE) == [one.name for one in CLASSES]
    assert {fact for one in CLASSES for fact in one.facts} <= set(FACTS)


def test_the_published_table_has_every_fact_and_holds() -> None:
    rows = re.findall(r"^\| .*\| ([\d.]+) % \(([\d,]+) more\) \| ([\d.]+) % \(([\d,]+) fewer\) \|", PAGE, re.MULTILINE)
    assert len(rows) == len(FACTS)
    for precision, more, recall, fewer in rows:
        assert float(precision) >= 99 or int(more.replace(",", "")) <= 2
        assert float(recall) >= 99 or int(fewer.replace(",", "")) <= 2
