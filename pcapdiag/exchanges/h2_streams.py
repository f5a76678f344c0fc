"""Rows of HTTP/2 frames -> one exchange per stream that the client opened, all of a reading at once (RFC 9113 section 8.1)."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.columns import NEVER, rows_between
from pcapdiag.exchanges.draft import Cut, Draft, Ending, add_span
from pcapdiag.exchanges.drafted import CUT_LEN, ENDING_OF, ENDINGS, Drafted, FactTable, deadline_code
from pcapdiag.exchanges.messages import MessageMarks
from pcapdiag.exchanges.ragged import Ragged
from pcapdiag.exchanges.said import Said
from pcapdiag.exchanges.table import CODES, KEYS, OUTCOMES, Exchanges, Outcome, Protocol
from pcapdiag.protocols.http2_frames import HEADER_LEN
from pcapdiag.protocols.http2_rows import H2Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pcapdiag.columns import I64, U8, Bools, Rows
    from pcapdiag.exchanges.draft import Facts
    from pcapdiag.exchanges.tape import Tape
    from pcapdiag.protocols.events import Headers

_STREAM_BITS: Final = 32
_ERROR, _ABORTED = CODES[Outcome.ERROR], CODES[Outcome.ABORTED]


class H2Streams:
    """The rows of some connections, sorted out by stream.

    Args:
        fd: direction of each row; connection by connection, the client's rows first.
        rows: ROW_LEN numbers each, see FrameRows.
        sections: header sections, which rows of header blocks refer to.
        bodies: see FrameRows.
        adopted: flow -> the upgraded HTTP/1.1 request that is its stream 1.
    """

    def __init__(
        self, fd: I64, rows: I64, sections: Sequence[Headers], bodies: dict[int, tuple[int, int]], adopted: dict[int, Draft]
    ) -> None:
        self._fd, self._sections, self._bodies = fd, sections, bodies
        self._at, self._stop, self._kind, self._id, self._value, ends = (np.ascontiguousarray(column) for column in rows.T)
        self._ends = ends.astype(np.bool_)
        self._down = fd & 1 == 1
        self._block, self._data = self._kind == H2Kind.HEADERS, self._kind == H2Kind.DATA
        own = (self._id & 1 == 1) & (self._block | self._data | (self._kind == H2Kind.RST))
        self._own = own  # streams with even numbers are the server's
        key = (fd >> 1) << _STREAM_BITS | self._id
        keys, numbers = np.unique(key[own], return_inverse=True)
        self.flow, self.id = keys >> _STREAM_BITS, keys & ((1 << _STREAM_BITS) - 1)
        self._of = np.full(len(fd), -1)
        self._of[own] = numbers
        self._upgraded = np.isin(keys, [flow << _STREAM_BITS | 1 for flow in adopted])
        self._adopted = adopted
        interim = np.array([section.get(":status", "").startswith("1") for section in sections])
        self._interim = own & self._block & self._down & ~self._ends
        self._interim &= interim[np.where(self._block, self._value, 0)]
        blocks = own & self._block
        self._asked, self._answered = (self._first(rows) for rows in (blocks & ~self._down, blocks & self._down & ~self._interim))

    def logged(self) -> tuple[I64, ...]:
        """fd, stop, kind, stream_id, value and end_stream of all rows but the header blocks of servers' streams.

        The value of a header block is 0 for the first of its stream and direction but interim ones, 1 for those behind it.
        """
        kept = ~self._block | self._own
        value, rows = self._value.copy(), np.flatnonzero(self._own & self._block)
        stream = self._of[rows]
        later = np.where(self._down[rows], rows > self._answered[stream], (rows > self._asked[stream]) | self._upgraded[stream])
        value[rows] = later
        return tuple(column[kept] for column in (self._fd, self._stop, self._kind, self._id, value, self._ends))

    def _first(self, wanted: Bools) -> Rows:
        """The first of the wanted rows of each stream; the number of rows for none."""
        first, rows = np.full(len(self.flow), len(self._fd)), np.flatnonzero(wanted)[::-1]
        first[self._of[rows]] = rows  # of several the last one stays
        return first

    def exchanges(self, tape: Callable[[int], Tape], one_way: Bools) -> Drafted:
        """One exchange per stream but the adopted ones, by flow and stream; `tape` gives the bytes of a direction, `one_way` is by flow."""
        count = len(self.flow)
        tape = lru_cache(maxsize=1)(tape)  # streams of one connection come one after the other
        extra: dict[int, Facts] = defaultdict(dict)
        request = self._spans(np.flatnonzero(self._own & ~self._down & (self._block | self._data)))
        answer = np.flatnonzero(self._own & self._down & (self._data | (self._block & ~self._interim)))
        response = self._spans(answer)
        ended = np.zeros(count, np.bool_)
        ended[self._of[answer[self._ends[answer]]]] = True
        said, of_said = self._said()
        outcome = np.array([CODES[one.outcome] for one in said], np.uint8)[of_said]
        outcome[ended & np.array([one.lacks_status for one in said], np.bool_)[of_said]] = _ERROR
        for row in np.flatnonzero(self._interim)[::-1].tolist():
            extra[int(self._of[row])]["interim_at"] = int(self._at[row])
        cuts = self._cuts(extra)
        messages = self._messages(said, of_said, tape, extra, outcome)
        ending = np.where(ended, ENDINGS[Ending.RESPONSE], ENDINGS[Ending.OPEN]).astype(np.uint8)
        for stream in np.flatnonzero(~ended & (response.counts > 0)).tolist():
            stop = int(response[stream][-1, 1])
            if not tape(2 * int(self.flow[stream]) + 1).has_all(stop, stop + 1):
                # It goes on in bytes that were not captured, and then nothing: its end is among them, not that of the connection.
                ending[stream] = ENDINGS[Ending.RESPONSE]
                extra[stream]["end_unread"] = True
        ending[(ending == ENDINGS[Ending.OPEN]) & (response.counts == 0) & one_way[self.flow]] = ENDINGS[Ending.UNSEEN]
        texts: dict[str, int] = {}
        facts, more = FactTable(), {stream: said[of_said[stream]].facts | one for stream, one in extra.items()}
        fact = np.array([facts.place(one.facts) for one in said], np.int32)[of_said]
        for stream, one in more.items():
            fact[stream] = facts.place(one)
        never, none = np.full(count, NEVER), Ragged.empty(count)
        table = Exchanges(
            flow=self.flow.astype(np.int32), h2_stream=self.id.astype(np.int32), fact=fact, outcome=outcome, messages=messages,
            protocol=np.array([CODES[one.protocol] for one in said], np.uint8)[of_said],
            name=np.array([texts.setdefault(one.name, len(texts)) for one in said], np.int32)[of_said],
            status=np.array([-1 if one.status is None else texts.setdefault(one.status, len(texts)) for one in said], np.int32)[of_said],
            deadline_ns=np.array([deadline_code(one.deadline_ns) for one in said], np.int64)[of_said],
            attempt=np.array([-1 if one.attempt is None else one.attempt for one in said], np.int32)[of_said],
            request=request, response=response, request_len=request.lengths(), response_len=response.lengths(),
            inferred=np.zeros(count, np.bool_), keys=np.full(count, KEYS.index("plain"), np.uint8),
            part_of=np.full(count, -1, np.int32), aborted_by=np.full(count, -1, np.int8),
            start_ns=never, request_start_ns=never, request_end_ns=never, request_in_order_ns=never, request_acked_ns=never,
            first_byte_ns=never, end_ns=never, setup=none, tries=none, frames=Ragged.empty(count, width=2),
            texts=tuple(texts), facts=facts.distinct(),
        )  # fmt: skip
        drafted = Drafted(table, ending, cuts)
        for stream in np.flatnonzero(self._upgraded).tolist():
            _adopt(self._adopted[int(self.flow[stream])], drafted, stream)
        return drafted.take(~self._upgraded) if self._upgraded.any() else drafted

    def _spans(self, rows: Rows) -> Ragged:
        """The bytes of some rows by stream: [start, stop), those that touch as one."""
        rows = rows[np.argsort(self._of[rows], kind="stable")]
        of, at, stop = self._of[rows], self._at[rows], self._stop[rows]
        begins = np.ones(len(rows), np.bool_)
        begins[1:] = (of[1:] != of[:-1]) | (at[1:] > stop[:-1])
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(rows))[: len(first)] - 1
        return Ragged(np.searchsorted(of[first], np.arange(len(self.flow) + 1)), np.stack([at[first], stop[last]], axis=1))

    def _said(self) -> tuple[list[Said], I64]:
        """What streams say, equal ones once; and which of them each stream says."""
        count, size = len(self.flow), len(self._sections) + 1
        known = (self._asked < len(self._fd)) & ~self._upgraded
        asked = np.where(known, np.append(self._value, -1)[self._asked], -1)
        blocks = np.flatnonzero(self._own & self._block & self._down & ~self._interim)
        blocks = blocks[np.argsort(self._of[blocks], kind="stable")]
        begin = np.searchsorted(self._of[blocks], np.arange(count + 1))
        answers = np.append(self._value[blocks], -1)
        some = np.diff(begin)
        first, second = (np.where(some > number, answers[np.minimum(begin[:-1] + number, len(blocks))], -1) for number in (0, 1))
        key = ((asked + 1) * size + first + 1) * size + second + 1
        many = np.flatnonzero(some > 2)
        key[many] = size**3 + np.arange(len(many))
        _, example, of_said = np.unique(key, return_index=True, return_inverse=True)
        said = []
        for stream in example.tolist():
            section = int(asked[stream])
            given = [self._sections[place] for place in answers[begin[stream] : begin[stream + 1]].tolist()]
            said.append(Said.by(None if section < 0 else self._sections[section], given))
        return said, of_said.reshape(-1)

    def _cuts(self, extra: dict[int, Facts]) -> Ragged:
        """RST_STREAM, and GOAWAY of the server for the streams it leaves out, as CUT_LEN numbers each."""
        cuts: list[list[tuple[int, ...]]] = [[] for _ in range(len(self.flow))] if self._has_cuts() else []
        if not cuts:
            return Ragged.empty(len(self.flow), width=CUT_LEN)
        spared: dict[int, int] = {}
        for row in np.flatnonzero((self._own & (self._kind == H2Kind.RST)) | self._leaves_out()).tolist():
            fd, offset, value = int(self._fd[row]), int(self._stop[row]) - 1, int(self._value[row])
            if self._kind[row] == H2Kind.RST:
                stream = int(self._of[row])
                refused = self._down[row] and row < self._answered[stream]
                cuts[stream].append((fd, offset, _ERROR if refused else _ABORTED))
                extra[stream].setdefault("h2_error", value)
                continue
            mine = rows_between(self.flow, fd >> 1, (fd >> 1) + 1)
            first = mine.start + int(np.searchsorted(self.id[mine], self._id[row], side="right"))
            for stream in range(first, spared.get(fd, mine.stop)):
                cuts[stream].append((fd, offset, _ABORTED))
                extra[stream].setdefault("goaway", value)
            spared[fd] = min(first, spared.get(fd, mine.stop))  # what one GOAWAY leaves out a later one cannot leave out sooner
        return Ragged.of(cuts, width=CUT_LEN)

    def _has_cuts(self) -> bool:
        return bool((self._own & (self._kind == H2Kind.RST)).any() or self._leaves_out().any())

    def _leaves_out(self) -> Bools:
        """GOAWAYs of servers that do not serve the last stream of their clients."""
        found = np.zeros(len(self._fd), np.bool_)
        rows = np.flatnonzero((self._kind == H2Kind.GOAWAY) & self._down)
        if len(rows) and len(self.flow):
            flow = self._fd[rows] >> 1
            last = np.searchsorted(self.flow, flow, side="right") - 1
            found[rows] = (last >= 0) & (self.flow[last] == flow) & (self.id[last] > self._id[rows])
        return found

    def _messages(self, said: list[Said], of_said: I64, tape: Callable[[int], Tape], extra: dict[int, Facts], outcome: U8) -> Ragged:
        """Where the messages of token streams and gRPC calls end; and what token streams say of their own end."""
        marked = np.array([bool(one.marks) for one in said], np.bool_)[of_said]
        if not marked.any():
            return Ragged.empty(len(self.flow))
        rows = np.flatnonzero(self._own & self._data & self._down)
        rows = rows[marked[self._of[rows]] & (rows > self._answered[self._of[rows]])]
        rows = rows[np.argsort(self._of[rows], kind="stable")]
        begin = np.searchsorted(self._of[rows], np.arange(len(self.flow) + 1)).tolist()
        offsets: list[Sequence[int]] = [()] * len(self.flow)
        for stream in np.flatnonzero(marked).tolist():
            marks, flow = MessageMarks.of(said[of_said[stream]].marks), int(self.flow[stream])
            server = tape(2 * flow + 1)
            for row in rows[begin[stream] : begin[stream + 1]].tolist():
                body = self._bodies.get(row, (int(self._at[row]) + HEADER_LEN, int(self._stop[row])))
                marks.read(server, *body)
            draft = Draft(flow, Protocol.H2, "", outcome=Outcome.OK)
            marks.conclude(draft)
            offsets[stream] = draft.messages
            extra[stream] |= draft.facts
            if draft.outcome is Outcome.ERROR:
                outcome[stream] = _ERROR
        return Ragged.of(offsets)


def _adopt(draft: Draft, drafted: Drafted, stream: int) -> None:
    """Tells a request that was made in HTTP/1.1 what its stream holds."""
    row, known = drafted.exchanges[stream], draft.protocol
    for start, stop in row.request:
        add_span(draft.request, start, stop)
    draft.response, draft.messages = [*row.response], row.messages.tolist()
    draft.status, draft.outcome = row.status, row.outcome
    draft.protocol = known if row.protocol is Protocol.H2 else row.protocol
    draft.ending = ENDING_OF[drafted.ending[stream]]
    draft.cuts = tuple(Cut(fd, offset, OUTCOMES[outcome]) for fd, offset, outcome in drafted.cuts[stream].tolist())
    draft.facts |= row.facts
