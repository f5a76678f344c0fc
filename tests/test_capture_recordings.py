"""Which files are one capture: those that follow one another on one interface, in the order of time."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pcapdiag.capture import Capture, Interface, Recordings, gather_inputs
from pcapdiag.losses import Loss, Losses
from tests.capture_files import DSB, ISB, JOURNAL, block, enhanced, interface, option, pcap_header, pcap_record, section

if TYPE_CHECKING:
    from pathlib import Path

TLS_KEYS = 0x544C534B


def pcap(*times_s: float, mark: str = "", snaplen: int = 262_144, link_type: int = 1) -> bytes:
    """Frames at these times, TCP over IPv4 at first sight; `mark` makes those of one path alike."""
    records = [
        pcap_record(
            bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(10) + (mark or f"{at:.6f}").encode() * 20 + bytes([n]) * 80,
            sec=int(at),
            fraction=round(at % 1 * 1e6),
        )
        for n, at in enumerate(times_s)
    ]
    return pcap_header(snaplen=snaplen, link_type=link_type) + b"".join(records)


def write(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def read(*arguments: object, apart: bool = False) -> tuple[tuple[Capture, ...], list[tuple[int, int, int]]]:
    """The captures, and (capture, number, seconds) of every frame as it came."""
    with gather_inputs([str(argument) for argument in arguments]) as inputs:
        recordings = Recordings(inputs.captures, Losses(), apart=apart)
        rows = [
            (batch.capture, number, ts_ns // 10**9)
            for batch in recordings
            for number, ts_ns in zip(batch.number.tolist(), batch.ts_ns.tolist(), strict=True)
        ]
    return recordings.captures, rows


def names(captures: tuple[Capture, ...]) -> list[list[str]]:
    return [[file.name for file in capture.each] for capture in captures]


def test_files_that_follow_one_another_are_one_capture_in_the_order_of_time(tmp_path: Path) -> None:
    write(tmp_path, a=pcap(30, 39), b=pcap(10, 19), c=pcap(20, 29))
    for arguments in ((tmp_path,), (tmp_path / "a", tmp_path / "b", tmp_path / "c"), (tmp_path / "c", tmp_path / "a", tmp_path / "b")):
        (capture,), rows = read(*arguments)
        assert names((capture,)) == [["b", "c", "a"]]
        assert rows == [(0, 1, 10), (0, 2, 19), (0, 3, 20), (0, 4, 29), (0, 5, 30), (0, 6, 39)]
        assert [capture.place(number) for number in range(1, 7)] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
        assert (capture.name, capture.frame_count, capture.first_ns, capture.last_ns) == ("b and 2 more", 6, 10 * 10**9, 39 * 10**9)
        assert capture.size_bytes == sum(file.size_bytes for file in capture.files)
        assert len({capture.sha256, *(file.sha256 for file in capture.files)}) == 4


def test_files_that_begin_in_the_same_instant_come_in_the_order_of_their_ends(tmp_path: Path) -> None:
    write(tmp_path, z=pcap(10, 10), a=pcap(10, 30), m=pcap(10, 10), b=pcap(30, 30), y=pcap(30, 41))
    (capture,), rows = read(tmp_path)
    assert [file.name for file in capture.files] == ["m", "z", "a", "b", "y"]
    assert [second for _, _, second in rows] == [10, 10, 10, 10, 10, 30, 30, 30, 30, 41]


@pytest.mark.parametrize(
    ("second", "joined"),
    [
        (pcap(20, 30), True),
        (pcap(79, 90), True),
        (pcap(81, 90), False),  # the pause is longer than a minute, and than what was recorded
        (pcap(19.95, 30), True),  # misordered by capture threads
        (pcap(19.8, 30), False),
        (pcap(12, 14), False),
        (pcap(5, 30), False),
        (pcap(21, 30, snaplen=96), False),
        (pcap(21, 30, link_type=113), False),
        (pcap(21, 30).replace(b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"), False),
    ],
)
def test_when_a_file_goes_on_with_a_recording(tmp_path: Path, second: bytes, joined: bool) -> None:
    captures, _ = read(write(tmp_path, a=pcap(10, 20), b=second))
    assert len(captures) == (1 if joined else 2)


def test_a_long_recording_may_pause_for_long(tmp_path: Path) -> None:
    write(tmp_path, a=pcap(0, 40), b=pcap(95, 100), c=pcap(190, 200), d=pcap(420, 430))
    assert names(read(tmp_path)[0]) == [["a", "b", "c"], ["d"]]


def test_two_captures_of_one_path_are_two_even_if_their_clocks_are_far_apart(tmp_path: Path) -> None:
    write(tmp_path, client=pcap(*range(10, 20), mark="same"), server=pcap(*range(25, 35), mark="same"))
    for arguments in ((tmp_path,), (tmp_path / "server", tmp_path / "client")):
        captures, rows = read(*arguments)
        assert sorted(names(captures)) == [["client"], ["server"]]
        assert [capture for capture, _, _ in rows] == [0] * 10 + [1] * 10
    write(tmp_path, client=pcap(10, 11, 12, mark="alive"), server=pcap(15, 16, 17, mark="alive"))
    assert names(read(tmp_path)[0]) == [["client", "server"]], "a few keep-alives prove nothing"


def test_captures_have_the_order_of_their_arguments_and_rings_that_of_their_first_named_file(tmp_path: Path) -> None:
    write(tmp_path, late1=pcap(100, 110, snaplen=96), late2=pcap(111, 120, snaplen=96), early=pcap(1, 2), later=pcap(3, 4))
    captures, rows = read(*(tmp_path / name for name in ("late2", "later", "late1", "early")))
    assert names(captures) == [["late1", "late2"], ["early", "later"]]
    assert [capture for capture, _, _ in rows] == sorted(capture for capture, _, _ in rows), "one capture after the other"
    captures, _ = read(*(tmp_path / name for name in ("early", "late1")))
    assert names(captures) == [["early"], ["late1"]]


def test_what_different_arguments_name_can_be_kept_apart(tmp_path: Path) -> None:
    for name, start in (("near", 0), ("far", 40)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, a=pcap(start, start + 9), b=pcap(start + 10, start + 19))
    both = tmp_path / "near", tmp_path / "far"
    assert [len(capture.each) for capture in read(*both)[0]] == [4]
    assert [len(capture.each) for capture in read(*both, apart=True)[0]] == [2, 2]


def test_of_two_rings_side_by_side_each_goes_on_with_its_own(tmp_path: Path) -> None:
    for n in range(5):
        write(tmp_path, **{f"eth0_{n}.pcap": pcap(10 * n, 10 * n + 9.0), f"eth1_{n}.pcap": pcap(10 * n + 5, 10 * n + 14.5)})
    for arguments in ((tmp_path,), sorted(tmp_path.iterdir(), reverse=True)):
        captures, _ = read(*arguments)
        assert sorted(names(captures)) == [[f"{ring}_{n}.pcap" for n in range(5)] for ring in ("eth0", "eth1")]


def test_a_member_without_frames_is_no_capture_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, r1=pcap(1, 2), r2=pcap(), r3=pcap(3, 4))
    (capture,), rows = read(tmp_path)
    assert (names((capture,)), len(rows), capture.name) == ([["r1", "r3", "r2"]], 4, "r1 and 2 more")
    write(tmp_path, other=pcap())
    assert names(read(tmp_path / "r1", tmp_path / "other")[0]) == [["r1"], ["other"]], "one that was named for itself is meant"
    assert names(read(tmp_path / "other")[0]) == [["other"]]


def pcapng(*packets: bytes, names: tuple[str, ...], dropped: int = 0, secret: bytes = b"") -> bytes:
    described = b"".join(interface("<", option(2, name.encode())) for name in names)
    counts = block(ISB, struct.pack("<III", 0, 0, 0) + option(5, struct.pack("<Q", dropped)))
    keys = block(DSB, struct.pack("<II", TLS_KEYS, len(secret)) + secret) if secret else b""
    return section("<", option(1, b"a comment")) + described + keys + b"".join(packets) + counts


def at(second: int, index: int = 0) -> bytes:
    return enhanced(bytes([second]) * 70, index=index, time=second * 1_000_000)


def test_interfaces_counters_and_secrets_of_all_files_are_the_captures(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=pcapng(at(1), at(2, 1), block(JOURNAL, b"x=y\n"), names=("eth0", "eth1"), dropped=3, secret=b"first"),
        b=pcapng(at(3), at(4, 1), names=("eth1", "eth2"), dropped=7, secret=b"second"),
        c=pcapng(at(5), names=("eth0",), secret=b"first"),
    )
    with gather_inputs([str(tmp_path)]) as inputs:
        recordings = Recordings(inputs.captures, Losses())
        seen = [(n, i) for batch in recordings for n, i in zip(batch.number.tolist(), batch.interface.tolist(), strict=True)]
    (capture,) = recordings.captures
    assert seen == [(1, 0), (2, 1), (4, 1), (5, 2), (6, 0)], "a journal entry has a number too"
    assert [capture.place(number) for number, _ in seen] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
    assert [(one.name, one.dropped_by_interface_count) for one in capture.interfaces] == [("eth0", 3), ("eth1", 7), ("eth2", None)]
    assert (capture.secrets, capture.comments, capture.last_number) == ((b"first", b"second"), ("a comment",), 6)
    assert all(isinstance(one, Interface) for one in capture.interfaces)


def test_losses_are_counted_for_the_capture_and_told_of_each_file(tmp_path: Path) -> None:
    write(tmp_path, a=pcap(1, 2), b=pcap(3, 4) + pcap_record(b"")[:8] + b"\xff" * 8, other=pcap(1, link_type=113) + b"\xff" * 16)
    losses = Losses()
    with gather_inputs([str(tmp_path)]) as inputs:
        recordings = Recordings(inputs.captures, losses)
        for batch in recordings:  # whoever decodes a batch counts before it takes the next
            losses.add(Loss.ARP, len(batch), capture=batch.capture)
    assert [losses.of(index) for index in (0, 1)] == [{Loss.ARP: 4, Loss.BAD_RECORD_LENGTH: 1}, {Loss.ARP: 1, Loss.BAD_RECORD_LENGTH: 1}]
    assert [file.not_decoded for file in recordings.captures[0].files] == [((Loss.ARP, 2),)] * 2
    assert [file.path for file in recordings.captures[0].files] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert (recordings.captures[0].cut_at is None, recordings.captures[0].files[0].cut_at) == (False, None)


def test_a_file_that_is_gone_when_its_turn_comes_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path, a=pcap(1, 2), b=pcap(3, 4))
    with gather_inputs([str(tmp_path)]) as inputs:
        (tmp_path / "b").unlink()
        recordings = Recordings(inputs.captures, Losses())
        assert sum(len(batch) for batch in recordings) == 2
    assert recordings.failures == [f"{tmp_path}/b: No such file or directory"]
    assert names(recordings.captures) == [["a"]]


def test_a_thousand_files_take_no_long_time(tmp_path: Path) -> None:
    for n in range(1_000):
        (tmp_path / f"{(n * 7_919) % 1_000}").write_bytes(pcap(10 * n, 10 * n + 9))
    (capture,), rows = read(*sorted(tmp_path.iterdir()))
    assert len(capture.files) == 1_000
    assert [number for _, number, _ in rows] == list(range(1, 2_001))
    assert [second for _, _, second in rows] == sorted(second for _, _, second in rows)
