"""The bench: a repeated capture is a capture of other hosts, and the cost of a program is its own and its children's."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path

import dpkt
import pytest

from tests.bench import BenchError
from tests.bench.contest import COLUMNS, CONTENDERS, EXPERT, HTTP2, JSON, TCPTRACE, TEXT, goals, table
from tests.bench.cost import Cost, measure, tree
from tests.bench.record import Workload, recorded
from tests.bench.repeat import Recording
from tests.bench.scale import big, flat, marginal, repeated, steps_us

SAMPLE = Path(__file__).parent.parent / "samples" / "h2-head-of-line" / "client.pcap"
MIB = 1 << 20


def records(path: Path) -> list[tuple[float, bytes]]:
    with path.open("rb") as file:
        return list(dpkt.pcap.Reader(file))


def ends(frame: bytes) -> frozenset[tuple[bytes, int]]:
    """Both ends of a TCP connection."""
    ip = dpkt.ethernet.Ethernet(frame).data
    return frozenset({(ip.src, ip.data.sport), (ip.dst, ip.data.dport)})


def test_a_repeated_capture_has_its_connections_anew_in_every_turn_and_nothing_else_changes(tmp_path: Path) -> None:
    recording = Recording(SAMPLE)
    recording.repeat(tmp_path / "three.pcap", 3 * len(recording))
    once, thrice = records(SAMPLE), records(tmp_path / "three.pcap")
    assert len(thrice) == 3 * len(once)
    turns = [thrice[at : at + len(once)] for at in range(0, len(thrice), len(once))]
    connections = [{ends(frame) for _, frame in turn} for turn in turns]
    hosts = [{address for pair in turn for address, _ in pair} for turn in connections]
    assert [len(turn) for turn in connections] == [len({ends(frame) for _, frame in once})] * 3
    assert len(hosts[0] | hosts[1] | hosts[2]) == 3 * len(hosts[0])
    for number, turn in enumerate(turns):
        assert {round(after - before) for (after, _), (before, _) in zip(turn, once, strict=True)} == {number * recording.period_s}
        assert [frame[:26] + frame[34:] for _, frame in turn] == [frame[:26] + frame[34:] for _, frame in once]
    assert all(before[-1][0] < after[0][0] for before, after in pairwise(turns))


def test_the_checksums_of_a_repeated_capture_are_those_of_its_addresses(tmp_path: Path) -> None:
    count = len(Recording(SAMPLE))
    Recording(SAMPLE).repeat(tmp_path / "many.pcap", 40 * count)
    checked = 0
    for _, frame in records(tmp_path / "many.pcap")[-count:]:
        ip = dpkt.ethernet.Ethernet(frame).data
        pseudo = ip.src + ip.dst + bytes((0, ip.p)) + len(bytes(ip.data)).to_bytes(2, "big")
        assert dpkt.in_cksum(frame[14:34]) == 0
        assert dpkt.in_cksum(pseudo + frame[34 : 14 + ip.len]) == 0
        checked += 1
    assert checked == count


def test_the_last_turn_ends_where_it_should_and_a_unit_is_a_beginning(tmp_path: Path) -> None:
    Recording(SAMPLE).repeat(tmp_path / "cut.pcap", 1_000)
    assert len(records(tmp_path / "cut.pcap")) == 1_000
    Recording(SAMPLE, packets=10).repeat(tmp_path / "unit.pcap", 25)
    once, unit = records(SAMPLE), records(tmp_path / "unit.pcap")
    assert unit[:10] == once[:10]
    assert [len(frame) for _, frame in unit] == [len(frame) for _, frame in (once[:10] * 3)[:25]]


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2 * len(Recording(SAMPLE)) + 7
    Recording(SAMPLE).repeat(tmp_path / "one.pcap", count)
    monkeypatch.setattr("tests.bench.repeat._CHUNK_LEN", 1_000)
    Recording(SAMPLE).repeat(tmp_path / "many.pcap", count)
    assert (tmp_path / "one.pcap").read_bytes() == (tmp_path / "many.pcap").read_bytes()


def test_a_large_capture_is_gone_after_its_use(tmp_path: Path) -> None:
    with repeated(SAMPLE, tmp_path, 50) as capture:
        assert len(Recording(capture)) == 50
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x0a\x0d\x0d\x0a" + bytes(60), SAMPLE.read_bytes()[:24]], ids=["empty", "pcapng", "no packet"])
def test_what_is_no_such_capture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd").write_bytes(content)
    with pytest.raises(BenchError, match="odd"):
        Recording(tmp_path / "odd")


def test_memory_is_that_of_the_whole_tree() -> None:
    child = "import time; held = bytearray(b'x') * (50 << 20); time.sleep(0.4)"
    parent = (
        f"import subprocess, sys; held = bytearray(b'x') * (50 << 20); subprocess.run([sys.executable, '-S', '-c', {child!r}], check=True)"
    )
    cost = measure((sys.executable, "-S", "-c", parent), limit_s=20, memory=True)
    assert 100 * MIB < cost.peak_len < 140 * MIB


def test_pages_of_mapped_files_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(60 * MIB))
    mapped = "held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); sum(held[::4096])"
    program = f"import mmap, time; file = open({str(tmp_path / 'file')!r}, 'rb'); {mapped}; time.sleep(0.2)"
    assert measure((sys.executable, "-S", "-c", program), limit_s=20, memory=True).peak_len > 60 * MIB


def test_processor_time_includes_children_and_excludes_waiting() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys, time; subprocess.run([sys.executable, '-S', '-c', {busy!r}], check=True); time.sleep(0.3)"
    cost = measure((sys.executable, "-S", "-c", parent), limit_s=20)
    assert 0.3 <= cost.cpu_s < cost.wall_s - 0.25
    assert cost.peak_len == 0


def test_a_program_that_fails_or_hangs_is_an_error_and_leaves_nothing() -> None:
    with pytest.raises(BenchError, match="exit 3: no such luck"):
        measure((sys.executable, "-S", "-c", "import sys; print('no such luck', file=sys.stderr); sys.exit(3)"), limit_s=20)
    hanging = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])"
    with pytest.raises(BenchError, match="too long"):
        measure((sys.executable, "-S", "-c", hanging), limit_s=0.5, memory=True)
    assert tree(os.getpid()) == [os.getpid()]


def test_the_table_and_its_goals_say_who_is_faster_and_by_how_much() -> None:
    costs = {TEXT: Cost(4, 5, 100 * MIB), JSON: Cost(4, 5, 100 * MIB), COLUMNS: Cost(2, 2, 50 * MIB)}
    costs |= {EXPERT: Cost(20, 20, 600 * MIB), HTTP2: Cost(40, 38, 400 * MIB)}
    rows = table(costs, 1_000_000).splitlines()
    assert rows[1].split() == ["pcapdiag,", "text", "report", "4.00", "5.00", "100", "250,000", "5.00x", "10.00x"]
    said = goals(costs).splitlines()
    assert (
        "TCP columns against tshark -q -z expert: 10.00 times as fast [goal 8: met] (CPU 10.00), 1/12.00 of its memory [goal 5: met]"
        in said[0]
    )
    assert "10.00 times as fast [goal 8: met]" in said[1]
    assert "1/4.00 of its memory [goal 5: MISSED]" in said[1]
    assert TCPTRACE in CONTENDERS
    assert not any(TCPTRACE in line for line in said)


def test_marginal_cost_is_the_slope_not_the_mean() -> None:
    assert steps_us([500_000, 1_000_000, 3_000_000], [3.0, 4.0, 8.0]) == [2.0, 2.0]
    assert "goal 1.2: met" in flat("wall", [1, 2, 3], [2.0, 2.39])
    assert "goal 1.2: MISSED" in flat("wall", [1, 2, 3], [2.0, 2.41])
    said = flat("CPU", [0, 2, 3], [2.5, 4.0])
    assert "3.00 us over all, no step is more than 33% off; the dearest step is 1.60 times" in said


@pytest.fixture
def memory_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """These programs need next to none."""
    monkeypatch.setattr("tests.bench.cost._TOUCHED_LEN", 0)


@pytest.mark.usefixtures("memory_as_it_is")
def test_every_step_of_the_marginal_cost_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.scale.CONTENDERS", {JSON: (sys.executable, "-S", "-c", "pass")})
    monkeypatch.setattr("tests.bench.scale._UNIT", 10)
    lines = marginal(SAMPLE, tmp_path, 1).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["10", "30", "60", "100"]
    assert [len(line.split()) for line in lines[1:5]] == [4, 6, 6, 6]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("memory_as_it_is")
@pytest.mark.parametrize(("report", "right"), [("'same'", True), ("sys.argv[2]", False)], ids=["same", "different"])
def test_a_large_capture_is_judged_by_its_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: str, right: bool) -> None:
    program = f"import pathlib, sys; pathlib.Path(sys.argv[sys.argv.index('-o') + 1]).write_text({report})"
    monkeypatch.setattr("tests.bench.scale.CONTENDERS", {JSON: (sys.executable, "-S", "-c", program)})
    said, judged = big(SAMPLE, tmp_path, 1_000_000)
    assert judged is right
    assert said.splitlines()[0].endswith(" packets, 0.00 GB; --memory 1.5GiB")
    assert bool(list(tmp_path.iterdir())) is not right


def test_a_recording_is_made_once_and_only_by_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    with pytest.raises(BenchError, match="needs root"):
        recorded(Workload(), tmp_path)
    (tmp_path / Workload().name).write_bytes(b"kept")
    assert recorded(Workload(), tmp_path) == tmp_path / Workload().name
    assert Workload(long_count=20).name != Workload().name
