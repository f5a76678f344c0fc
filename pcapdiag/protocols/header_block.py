"""HPACK (RFC 7541) as an observer must read it: the capture may not show how the dynamic table came to be.

Indices count from the newest entry, so fields added after a start in the middle or a hole are found again; only
references beyond them are unknown. Values that may not be kept are never decoded, which leaves the size of their
entries a lower bound: entries are then evicted late, which no valid reference can notice.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final, NamedTuple

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from pcapdiag.protocols.events import Headers
from pcapdiag.protocols.headers import is_kept, kept_value, merged

_TABLE_CAP: Final = 1 << 20
"""Bytes of table we are willing to remember, whatever the peers agreed on."""
_ENTRY_OVERHEAD: Final = 32  # RFC 7541 section 4.1
_STATIC_COUNT: Final = HeaderTable.STATIC_TABLE_LENGTH
_LONGEST_CODE_BITS: Final = 30  # RFC 7541 appendix B
_MEMO_MOVES: Final = 1 << 13
_MEMO_BLOCK_LEN: Final = 2_048
"""Longer blocks hardly come twice."""


class BlockError(ValueError):
    """A header block that RFC 7541 does not allow; the table is unknown from there on."""


class _Entry(NamedTuple):
    """One row of the table: None where the capture does not tell, or where the field is not kept."""

    name: bytes | None
    field: tuple[str, str] | None
    size: int


class _Text(NamedTuple):
    """A string literal where it lies in the block (RFC 7541 section 5.2)."""

    raw: bytes
    huffman: bool

    def decode(self) -> bytes:
        """The octets it stands for."""
        if not self.huffman:
            return self.raw
        try:
            return _unpacked(self.raw) if len(self.raw) <= 128 else decode_huffman(self.raw)
        except HPACKDecodingError:
            raise BlockError("invalid Huffman code in a header block") from None

    def least_len(self) -> int:
        """A lower bound of the decoded length, in octets."""
        return len(self.raw) * 8 // _LONGEST_CODE_BITS if self.huffman else len(self.raw)


class DecodedBlock(NamedTuple):
    """The kept fields of one block, and how many fields cannot be known."""

    headers: Headers
    unknown_count: int


_unpacked = lru_cache(maxsize=4096)(decode_huffman)
_UNKNOWN: Final = _Entry(None, None, _ENTRY_OVERHEAD)
_NOTHING: Final = DecodedBlock(merged(()), 0)


def _entry_of(name: bytes, value: bytes) -> _Entry:
    kept = (name.decode("ascii"), kept_value(name, value)) if is_kept(name) else None
    return _Entry(name, kept, _ENTRY_OVERHEAD + len(name) + len(value))


_STATIC: Final = tuple(_entry_of(name, value) for name, value in HeaderTable.STATIC_TABLE)


class _Table:
    """The dynamic table at one point, never changed again; and where each block that was read there led."""

    __slots__ = ("entries", "known", "limit", "max_size", "moves", "size")

    def __init__(self, entries: tuple[_Entry, ...], size: int, max_size: int, limit: int | None, *, known: bool) -> None:
        self.entries = entries
        """The newest one first."""
        self.size = size
        self.max_size = max_size
        self.limit = limit
        self.known = known
        self.moves: dict[bytes | int, tuple[DecodedBlock, _Table]] = {}
        """By block, or by limit told."""


class BlockMemo:
    """What blocks decoded to, for readers that come through the same tables: the connections of one client say much the same.

    Every table that a block makes of another is found from that one, so nothing is ever compared but blocks.
    """

    def __init__(self) -> None:
        self._moves_left, self._roots = _MEMO_MOVES, _roots()

    def begin(self, *, known: bool) -> _Table:
        """The table of a connection that starts here (`known`), or of one that is met in its middle."""
        return self._roots[known]

    def keep(self, table: _Table, move: bytes | int, decoded: DecodedBlock, after: _Table) -> None:
        """Notes where a move leads; when there are too many, begins anew."""
        if not self._moves_left:
            self._moves_left, self._roots = _MEMO_MOVES, _roots()
        if isinstance(move, int) or len(move) <= _MEMO_BLOCK_LEN:
            self._moves_left -= 1
            table.moves[move] = decoded, after


def _roots() -> dict[bool, _Table]:
    return {known: _Table((), 0, HeaderTable.DEFAULT_SIZE, None, known=known) for known in (False, True)}


class HeaderBlockReader:
    """Decodes the header blocks of one direction, in order.

    Args:
        known: the table is known to be empty: the connection starts here.
        memo: shared with other readers.
    """

    def __init__(self, *, known: bool, memo: BlockMemo | None = None) -> None:
        self._memo = memo if memo is not None else BlockMemo()
        self._table = self._memo.begin(known=known)

    def set_limit(self, size: int) -> None:
        """Tells a SETTINGS_HEADER_TABLE_SIZE of the peer, which updates may not exceed; when it applied is not known."""
        table = self._table
        move = table.moves.get(size)
        if move is None:
            limit = max(table.limit or HeaderTable.DEFAULT_SIZE, size)
            after = _Table(table.entries, table.size, table.max_size, limit, known=table.known)
            self._memo.keep(table, size, _NOTHING, after)
            self._table = after
        else:
            self._table = move[1]

    def lose(self) -> None:
        """A block went by unseen: which entries the table now holds is unknown."""
        self._table = _Table((), 0, self._table.max_size, self._table.limit, known=False)

    def read(self, block: bytes) -> DecodedBlock:
        """Decodes one whole block.

        Raises:
            BlockError: the block is not valid; the table counts as lost.
        """
        move = self._table.moves.get(block)
        if move is None:
            decoding = _Decoding(self._table)
            try:
                decoded = decoding.fields(block)
            except IndexError:
                self._lose_behind(decoding)
                raise BlockError("a header block ends inside a field") from None
            except BlockError:
                self._lose_behind(decoding)
                raise
            move = decoded, decoding.table()
            self._memo.keep(self._table, block, *move)
        self._table = move[1]
        return move[0]

    def _lose_behind(self, decoding: _Decoding) -> None:
        self._table = decoding.table()
        self.lose()


class _Decoding:
    """One block, and what it makes of the table."""

    def __init__(self, table: _Table) -> None:
        self._before = table
        self._entries = deque(table.entries)
        self._size, self._max_size = table.size, table.max_size
        self._limit, self._known = table.limit, table.known
        self._changed = False

    def table(self) -> _Table:
        """The table behind the block."""
        if not self._changed:
            return self._before
        return _Table(tuple(self._entries), self._size, self._max_size, self._limit, known=self._known)

    def fields(self, block: bytes) -> DecodedBlock:
        """The kept fields (raises IndexError and BlockError)."""
        at, end, unknown = 0, len(block), 0
        fields: list[tuple[str, str]] = []
        while at < end:
            first = block[at]
            if first & 0x80:  # indexed field, RFC 7541 section 6.1
                index, at = _integer(block, at, 0x7F)
                entry = self._at(index)
            elif first & 0xE0 == 0x20:  # dynamic table size update, section 6.3
                size, at = _integer(block, at, 0x1F)
                self._resize(size)
                continue
            else:  # literal with (section 6.2.1) or without indexing (6.2.2, 6.2.3)
                indexing = first & 0x40
                entry, at = self._literal(block, at, 0x3F if indexing else 0x0F)
                if indexing:
                    self._add(entry)
            if entry.field is not None:
                fields.append(entry.field)
            elif entry.name is None:
                unknown += 1
        return DecodedBlock(merged(fields), unknown)

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[_Entry, int]:
        index, at = _integer(block, at, mask)
        if index:
            name = self._at(index).name
        else:
            text, at = _text(block, at)
            name = text.decode()
        value, at = _text(block, at)
        if name is not None and is_kept(name):
            return _entry_of(name, value.decode()), at
        return _Entry(name, None, _ENTRY_OVERHEAD + len(name or b"") + value.least_len()), at

    def _at(self, index: int) -> _Entry:
        if 0 < index <= _STATIC_COUNT:
            return _STATIC[index - 1]
        index -= _STATIC_COUNT + 1
        if 0 <= index < len(self._entries):
            return self._entries[index]
        if self._known or index < 0:
            raise BlockError("a header block refers to an entry its table never had")
        return _UNKNOWN

    def _add(self, entry: _Entry) -> None:
        self._changed = True
        self._entries.appendleft(entry)
        self._size += entry.size
        self._evict()

    def _resize(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise BlockError("a header block asks for a larger table than its peer allows")
        self._changed = True
        self._max_size = size
        self._evict()
        if size < _ENTRY_OVERHEAD:  # no entry fits: whatever there was is gone
            self._known = True

    def _evict(self) -> None:
        while self._size > min(self._max_size, _TABLE_CAP):
            self._size -= self._entries.pop().size
            if self._max_size > _TABLE_CAP:
                self._known = False


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer whose prefix is `mask` of the octet at `at`, and the offset behind it (RFC 7541 section 5.1)."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 35, 7):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise BlockError("an integer of a header block does not fit into 32 bits")


def _text(block: bytes, at: int) -> tuple[_Text, int]:
    """A string literal, and the offset behind it (RFC 7541 section 5.2)."""
    huffman = block[at] & 0x80
    length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise BlockError("a header block ends inside a field")
    return _Text(block[at:end], huffman != 0), end
