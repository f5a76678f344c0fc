"""tar archives of every dialect are read front to back; what lies about itself ends the reading, and nothing else."""

from __future__ import annotations

import io
import random
import struct
import tarfile

import pytest

from pcapdiag.capture.tar import TarReader, is_tar


class Tape:
    """An archive in memory."""

    def __init__(self, data: bytes) -> None:
        self._file, self._length = io.BytesIO(data), len(data)

    def read(self, length: int) -> bytes:
        return self._file.read(length)

    def skip(self, length: int) -> bool:
        self._file.seek(min(self._file.tell() + length, self._length))
        return length == 0 or self._file.tell() < self._length


def packed(*files: tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:  # noqa: A002 - tarfile's word
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, content in files:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return out.getvalue()


def header(name: bytes, size: bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """A header with a checksum, whatever it says."""
    raw = bytearray(512)
    raw[: len(name)], raw[124 : 124 + len(size)], raw[156:157], raw[257 : 257 + len(magic)] = name, size, kind, magic
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def read(data: bytes) -> tuple[list[tuple[str, bytes]], TarReader]:
    reader = TarReader(Tape(data))
    return [(member.name, reader.take(1 << 30)) for member in reader], reader


FILES = [("a", b"first"), ("folder/b", bytes(512)), ("c" * 99, b""), ("long/" * 40 + "d", b"x" * 1_500)]


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_dialects(dialect: int) -> None:
    files = FILES if dialect != tarfile.USTAR_FORMAT else [*FILES[:3], ("long/" * 30 + "d", b"x")]
    whole = packed(*files, format=dialect)
    assert is_tar(whole[:512])
    found, reader = read(whole)
    assert (found, reader.broken, reader.other_count) == (files, None, 0)


def test_v7_has_no_magic() -> None:
    whole = header(b"old", b"00000000003\0", kind=b"\0", magic=b"") + b"abc".ljust(512, b"\0") + bytes(1_024)
    assert read(whole)[0] == [("old", b"abc")]


def test_a_pax_name_may_be_of_any_letters() -> None:
    assert read(packed(("größe/ノード.pcap", b"x"), format=tarfile.PAX_FORMAT))[0] == [("größe/ノード.pcap", b"x")]


def test_members_need_not_be_taken() -> None:
    reader = TarReader(Tape(packed(*FILES)))
    assert [(member.name, member.size, reader.take(2)) for member in reader] == [(name, len(data), data[:2]) for name, data in FILES]


def test_links_and_devices_are_counted_and_folders_are_not() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            about = tarfile.TarInfo("../../etc/passwd")
            about.type, about.linkname = kind, "/dev/zero"
            archive.addfile(about)
        archive.addfile(tarfile.TarInfo("/absolute"))
    found, reader = read(out.getvalue())
    assert (found, reader.other_count, reader.broken) == ([("/absolute", b"")], 5, None)


def test_sparse_files_are_counted() -> None:
    sparse = bytearray(header(b"sparse", b"00000001000\0", kind=b"S", magic=b"ustar  \0"))
    sparse[482] = 1  # the map goes on in a block of its own
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    whole = bytes(sparse) + bytes(512) + b"s" * 512 + packed(("next", b"n"))
    found, reader = read(whole)
    assert (found, reader.other_count) == ([("next", b"n")], 1)
    pax = b"30 GNU.sparse.realsize=500000\n"
    whole = header(b"x", b"%011o\0" % len(pax), kind=b"x") + pax.ljust(512, b"\0") + header(b"s", b"00000000001\0") + b"1".ljust(512, b"\0")
    found, reader = read(whole + packed(("next", b"n")))
    assert (found, reader.other_count) == ([("next", b"n")], 1)


def test_sizes_beyond_octal_are_binary() -> None:
    huge = header(b"huge", b"\x80" + struct.pack(">3xQ", 1 << 40))
    reader = TarReader(Tape(huge + bytes(512)))
    assert [(member.name, member.size) for member in reader] == [("huge", 1 << 40)]
    assert reader.broken == "the tar archive ends inside a file"


@pytest.mark.parametrize("size", [b"0000000000x\0", b"\xff" * 12])
def test_a_size_that_is_none_ends_the_reading(size: bytes) -> None:
    found, reader = read(packed(("a", b"1"))[:1_024] + header(b"bad", size) + packed(("b", b"2")))
    assert found == [("a", b"1")]
    assert reader.broken == "a tar header with a size that is no number"


def test_cut_at_every_block() -> None:
    whole = packed(*FILES)
    for cut in range(1, len(whole), 100):
        found, reader = read(whole[:cut])
        for (name, data), (expected_name, expected) in zip(found, FILES, strict=False):
            assert name == expected_name
            assert expected.startswith(data)
        assert found[:-1] == FILES[: max(len(found) - 1, 0)]
        if len(found) < len(FILES):
            assert reader.broken is not None or cut % 512 == 0


def test_noise_is_no_archive_and_ends_one() -> None:
    for seed in range(50):
        noise = random.Random(seed).randbytes(2_048)
        assert not is_tar(noise)
        found, reader = read(packed(("a", b"1"))[:1_024] + noise)
        assert (found, reader.broken) == ([("a", b"1")], "a tar header with a wrong checksum")
    assert not is_tar(bytes(512))


def test_pax_records_that_make_no_sense_are_left_out() -> None:
    for records in (b"99999999999 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"path=x\n", b"\xff" * 100, b"39 size=" + b"9" * 30 + b"\n"):
        whole = header(b"x", b"%011o\0" % len(records), kind=b"x") + records + bytes(-len(records) % 512)
        found, _ = read(whole + packed(("kept", b"k")))
        assert [data for _, data in found] == [b"k"]
