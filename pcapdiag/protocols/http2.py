"""HTTP/2 frames of one direction, as an observer reads them (RFC 9113)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Final

from pcapdiag.protocols.events import (
    BytesUnread,
    DataReceived,
    Event,
    Fault,
    HeadersReceived,
    PrefaceReceived,
    Side,
    UnknownFrameReceived,
)
from pcapdiag.protocols.header_block import BlockError, BlockMemo, DecodedBlock, HeaderBlockReader
from pcapdiag.protocols.http2_frames import (
    CONTROL_CAP,
    CONTROL_EVENTS,
    DEFAULT_MAX_FRAME_LEN,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_LEN,
    PADDED,
    PLAUSIBLE_FRAME_LEN,
    PREFACE,
    PRIORITY_FLAG,
    SHORT_EVENTS,
    STREAM_BITS,
    Frame,
    FrameType,
    find_start,
    header_fault,
)
from pcapdiag.protocols.reader import Buffer, StreamReader

BLOCK_CAP: Final = 256 * 1024
"""Bytes of one header block that are read; longer ones are counted, not decoded."""
_WORD: Final = Struct(">L")


@dataclass(slots=True)
class _Passing:
    """A frame whose payload is counted, not kept: DATA, or what cannot be read."""

    frame: Frame
    left: int
    """Payload bytes still to come."""
    pad_len: int = 0
    fault: str | None = None


@dataclass(slots=True)
class _Block:
    """A header block under way (RFC 9113 section 4.3)."""

    first: Frame
    promised_id: int | None
    end: int
    data: bytearray = field(default_factory=bytearray)
    fault: str | None = None


class Http2Reader(StreamReader):
    """Reads what one side of an HTTP/2 connection sends.

    Args:
        side: who sends these bytes.
        preface_expected: the first byte is the first of the connection; otherwise frames are searched for, and the
            state of header compression is unknown.
        at: stream offset of the first byte.
        memo: shared with other readers that may come by the same header blocks.
    """

    def __init__(self, side: Side, *, preface_expected: bool, at: int = 0, memo: BlockMemo | None = None) -> None:
        super().__init__(at=at)
        self._memo = memo if memo is not None else BlockMemo()
        self._side = side
        self._starting = preface_expected
        self._lost_at: int | None = None if preface_expected else at
        self._largest = DEFAULT_MAX_FRAME_LEN
        self._passing: _Passing | None = None
        self._block: _Block | None = None
        self._blocks = HeaderBlockReader(known=preface_expected, memo=self._memo)

    def set_header_table_size(self, size: int) -> None:
        """Tells a SETTINGS_HEADER_TABLE_SIZE that the other side sent (RFC 9113 section 6.5.2), bytes."""
        self._blocks.set_limit(size)

    # bytes that came

    def _read(self, buf: Buffer, events: list[Event]) -> int:
        at, end = 0, len(buf)
        self._need = 0
        while at < end and not self._need:
            if self._passing is not None:
                at = self._pass(self._passing, at, end, events)
            elif self._lost_at is not None:
                at, self._need = find_start(buf, at, largest=self._largest, closed=False)
                if not self._need:
                    self._regain(buf, at, events)
            elif self._starting:
                at = self._start(buf, at, end, events)
            else:
                at = self._walk(buf, at, end, events)
        return at

    def _walk(self, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        """Reads frames until one is not whole, or sync is lost; the usual ones, whole and valid, right here."""
        base, unpack, append, short = self._base, HEADER.unpack_from, events.append, SHORT_EVENTS.get
        while end - at >= HEADER_LEN:
            word, flags, stream_id = unpack(buf, at)
            payload_at = at + HEADER_LEN
            frame_end = payload_at + (word >> 8)
            if frame_end <= end and self._block is None and stream_id <= STREAM_BITS:
                if not word & 0xFF and stream_id and not flags & PADDED and word >> 8 <= self._largest:
                    append(DataReceived(base + at, base + frame_end, stream_id, base + payload_at, base + frame_end, flags & 1 == 1))
                    at = frame_end
                    continue
                event = short(word if stream_id else -word)
                if event is not None:
                    append(event(base + at, base + frame_end, stream_id, flags, bytes(buf[payload_at:frame_end])))
                    at = frame_end
                    continue
            at = self._frame(buf, at, end, events)
            if self._need or self._passing is not None or self._lost_at is not None:
                return at
        self._need = HEADER_LEN
        return at

    def _frame(self, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        frame = Frame.read(buf, at, self._base)
        fault = header_fault(frame)
        unreadable = fault is not None or not frame.is_known
        if unreadable and frame.length > PLAUSIBLE_FRAME_LEN:
            self._lose(frame.at, frame.at + HEADER_LEN, fault or "frame of an unknown type and an implausible length", events)
            return at + 1
        if self._block is not None and (frame.kind != FrameType.CONTINUATION or frame.stream_id != self._block.first.stream_id):
            self._abandon(self._block, "header block interrupted by another frame", events)
        passing = _Passing(frame, frame.length, 0, fault)
        if not unreadable and frame.kind == FrameType.DATA:
            if frame.flags & PADDED and not frame.length:
                passing.fault = "padding longer than its DATA frame"
            elif frame.flags & PADDED:
                if at + HEADER_LEN >= end:
                    self._need = HEADER_LEN + 1
                    return at
                _set_padding(passing, buf[at + HEADER_LEN])
        elif not unreadable:
            if frame.length <= (BLOCK_CAP if frame.has_fragment else CONTROL_CAP):
                return self._whole(frame, buf, at, end, events)
            passing.fault = f"{frame.name} frame too long to be read"
        self._largest = max(self._largest, min(frame.length, PLAUSIBLE_FRAME_LEN))
        self._passing = passing
        return self._pass(passing, at + HEADER_LEN, end, events)

    def _whole(self, frame: Frame, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        """Reads a frame that is not DATA once all of it is there."""
        at += HEADER_LEN
        if at + frame.length > end:
            self._need = HEADER_LEN + frame.length
            return at - HEADER_LEN
        payload = bytes(buf[at : at + frame.length])
        if frame.has_fragment:
            self._fragment(frame, payload, None, events)
        else:
            events.append(CONTROL_EVENTS[frame.kind](frame.at, frame.end, frame.stream_id, frame.flags, payload))
        return at + frame.length

    def _pass(self, passing: _Passing, at: int, end: int, events: list[Event]) -> int:
        """Counts payload; gives the frame's event behind its last byte."""
        step = min(passing.left, end - at)
        passing.left -= step
        if not passing.left:
            self._passing = None
            self._passed(passing, passing.frame.end, events)
        return at + step

    def _passed(self, passing: _Passing, end: int, events: list[Event]) -> None:
        frame, fault = passing.frame, passing.fault
        if frame.has_fragment and frame.stream_id:
            self._fragment(replace(frame, length=end - frame.at - HEADER_LEN), b"", fault, events)
            return
        if fault is not None:
            events.append(Fault(frame.at, end, fault))
        if frame.kind == FrameType.DATA and frame.stream_id:
            payload_at = frame.at + HEADER_LEN + (frame.flags & PADDED != 0 and frame.length > 0)
            payload_end = max(payload_at, min(end, frame.end - passing.pad_len))
            ends = frame.flags & END_STREAM != 0 and end == frame.end
            events.append(DataReceived(frame.at, end, frame.stream_id, min(payload_at, end), min(payload_end, end), ends))
        elif not frame.is_known:
            events.append(UnknownFrameReceived(frame.at, end, frame.kind, frame.stream_id))

    # the start, and finding it again

    def _start(self, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        """Reads what a connection begins with (RFC 9113 section 3.4): the preface, or the server's SETTINGS."""
        begin = self._base + at
        if bytes(buf[at : at + 3]) == PREFACE[:3] or self._side is Side.CLIENT:
            self._need = len(PREFACE) if end - at < len(PREFACE) else 0
            if not self._need and bytes(buf[at : at + len(PREFACE)]) == PREFACE:
                self._starting = False
                events.append(PrefaceReceived(begin, begin + len(PREFACE)))
                return at + len(PREFACE)
        else:
            self._need = HEADER_LEN if end - at < HEADER_LEN else 0
            if not self._need and Frame.read(buf, at, self._base).kind == FrameType.SETTINGS:
                self._starting = False
        if not self._need and self._starting:
            self._lose(begin, begin + HEADER_LEN, "connection does not begin with its preface", events)
        return at

    def _lose(self, at: int, end: int, what: str, events: list[Event]) -> None:
        """Bytes [at, end) say that the phase is wrong or unknown: frames are searched for from `at` on."""
        if self._block is not None:
            self._abandon(self._block, "header block interrupted by a hole", events)
        events.append(Fault(at, end, what))
        self._starting = False
        self._lost_at = at
        self._blocks.lose()

    def _regain(self, buf: Buffer, at: int, events: list[Event]) -> None:
        begin = self._base + at
        if self._lost_at is not None and begin > self._lost_at:
            events.append(BytesUnread(self._lost_at, begin))
        self._lost_at = None
        if buf[at] == PREFACE[0]:
            self._starting = True
            self._blocks = HeaderBlockReader(known=True, memo=self._memo)

    def _settle(self, events: list[Event]) -> None:
        """No bytes follow those that wait: decides where frames begin by what there is."""
        while self._lost_at is not None and self._tail:
            found, need = find_start(self._tail, 0, largest=self._largest, closed=True)
            if not need:
                self._regain(self._tail, found, events)
            self._base += found
            del self._tail[:found]
            if not need:
                used = self._read(self._tail, events)
                self._base += used
                del self._tail[:used]

    # header blocks

    def _fragment(self, frame: Frame, payload: bytes, fault: str | None, events: list[Event]) -> None:
        """Adds one HEADERS, PUSH_PROMISE or CONTINUATION frame to its block; decodes the block behind the last."""
        fragment, promised_id = _unwrapped(frame, payload)
        if frame.kind != FrameType.CONTINUATION:
            self._block = _Block(frame, promised_id, frame.end)
            if fragment is None:
                fault = fault or f"padding longer than its {frame.name} frame"
        block = self._block
        if block is None:
            events.append(Fault(frame.at, frame.end, "CONTINUATION frame without a header block"))
            self._blocks.lose()
            return
        block.end = frame.end
        block.fault = block.fault or fault
        if len(block.data) + len(fragment or b"") > BLOCK_CAP:
            block.fault = block.fault or "header block too long to be read"
        if block.fault is None:
            block.data += fragment or b""
        if frame.flags & END_HEADERS:
            self._finish_block(block, events)

    def _abandon(self, block: _Block, what: str, events: list[Event]) -> None:
        block.fault = block.fault or what
        self._finish_block(block, events)

    def _finish_block(self, block: _Block, events: list[Event]) -> None:
        self._block = None
        first = block.first
        ends = first.flags & END_STREAM != 0 and first.kind == FrameType.HEADERS
        self._decode(first.at, block.end, first.stream_id, block.promised_id, bytes(block.data), block.fault, events, ends=ends)

    def _decode(
        self, at: int, end: int, stream_id: int, promised_id: int | None, data: bytes, fault: str | None, events: list[Event], *, ends: bool
    ) -> None:
        """Gives the event of a whole header block, [at, end) of the stream; a block with a fault is lost."""
        decoded: DecodedBlock | None = None
        if fault is None:
            try:
                decoded = self._blocks.read(data)
            except BlockError as error:
                fault = str(error)
        else:
            self._blocks.lose()
        if fault is not None:
            events.append(Fault(at, end, fault))
        headers, unknown_count = decoded if decoded is not None else (None, 0)
        events.append(HeadersReceived(at, end, stream_id, headers, unknown_count, ends, promised_id))

    # holes and the end

    def _miss(self, length: int, events: list[Event]) -> None:
        self._settle(events)
        if self._passing is None and self._lost_at is None and len(self._tail) >= HEADER_LEN and not self._starting:
            frame = Frame.read(self._tail, 0, self._base)
            fault = None if frame.kind == FrameType.DATA else f"bytes missing in a {frame.name} frame"
            self._passing = _Passing(frame, frame.end - self.next, 0, fault)
            self._drop_tail()
        if (passing := self._passing) is not None:
            step = min(passing.left, length)
            self._pass(passing, 0, step, events)
            self._base += step
            length -= step
        if length and self._lost_at is None and self._passing is None:
            self._lose(self.next, self.next + length, "bytes missing where a frame starts", events)
            self._lost_at = self._base
        self._drop_tail(length)

    def _end(self, events: list[Event], *, closed: bool) -> None:
        self._settle(events)
        end = self.next
        passing, self._passing = self._passing, None
        if passing is not None and (passing.frame.kind == FrameType.DATA or passing.frame.has_fragment):
            self._passed(passing, end, events)
        if self._block is not None:
            self._abandon(self._block, "stream ends inside a header block", events)
        if self._lost_at is not None and end > self._lost_at:
            events.append(BytesUnread(self._lost_at, end))
            self._lost_at = end
        elif closed and (passing is not None or self._tail):
            events.append(Fault(passing.frame.at if passing is not None else self._base, end, "stream ends inside a frame"))
        self._drop_tail()


def _set_padding(passing: _Passing, pad_len: int) -> None:
    """Notes the padding of a DATA frame; more than its payload is a fault (RFC 9113 section 6.1)."""
    if pad_len >= passing.frame.length:
        passing.fault = "padding longer than its DATA frame"
    passing.pad_len = min(pad_len, passing.frame.length - 1)


def _unwrapped(frame: Frame, payload: bytes) -> tuple[bytes | None, int | None]:
    """The fragment of a header frame without padding and priority, None if they do not fit; and the promised stream."""
    if frame.kind == FrameType.CONTINUATION:
        return payload, None
    start, end = 0, len(payload)
    if frame.flags & PADDED:
        start = 1
        end -= payload[0] if payload else 0
    if frame.kind == FrameType.PUSH_PROMISE:
        promised_id = _WORD.unpack_from(payload, start)[0] & STREAM_BITS if len(payload) >= start + 4 else None
        return (payload[start + 4 : end] if start + 4 <= end else None), promised_id
    if frame.flags & PRIORITY_FLAG:
        start += 5
    return (payload[start:end] if start <= end else None), None
