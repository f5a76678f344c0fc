"""The frames that findings cite, as tshark shows them: only when asked for, and never a reason to fail."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pcapdiag.exchanges.table import Protocol

if TYPE_CHECKING:
    from pcapdiag.findings.types import Diagnosis
    from pcapdiag.trace import Tables

MOST_FRAMES: Final = 60
"""tshark reads its way up to each of them; a report that spreads out more is read by nobody."""

_DECODE_AS: Final = {Protocol.H2: "http2", Protocol.GRPC: "http2", Protocol.HTTP1: "http", Protocol.SSE: "http"}


def dissect_cited(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis with dissections of its evidence frames, or with notes that say why there are none."""
    from pcapdiag.capture import tshark  # noqa: PLC0415 - brings asyncio and an XML parser, which only --dissect needs

    tables = diagnosis.tables
    frames = {tables.place(*frame): frame for frame in _cited(diagnosis)}
    dissections: dict[tuple[int, int], str] = {}
    notes: list[str] = []
    try:
        for index, (capture, file) in enumerate(tables.files):
            wanted = [number for of, number in frames if of == index]
            if not wanted:
                continue
            if file.path is None or not Path(file.path).is_file():
                notes.append(f"--dissect: {file.name}: tshark needs a file that can be read a second time")
                continue
            texts = tshark.dissect(file.path, wanted, decode_as=_decode_as(tables, capture))
            dissections.update({frames[index, number]: texts[number] for number in wanted if number in texts})
            if missing := len(set(wanted) - set(texts)):
                notes.append(f"--dissect: {file.name}: tshark gave nothing for {missing} of {len(wanted)} cited frames")
    except tshark.NoTsharkError as error:
        notes.append(f"--dissect: {error}; the diagnosis does not need it")
    return replace(diagnosis, dissections=dissections, notes=(*diagnosis.notes, *notes))


def _cited(diagnosis: Diagnosis) -> list[tuple[int, int]]:
    """(capture, frame) of the evidence, the first of every finding before the second of any."""
    rounds = zip_longest(*([(f.capture, f.number) for f in finding.conclusion.frames] for finding in diagnosis.findings))
    distinct = dict.fromkeys(frame for frame in chain.from_iterable(rounds) if frame is not None)
    return list(distinct)[:MOST_FRAMES]


def _decode_as(tables: Tables, capture: int) -> dict[str, str]:
    """What tshark cannot know of unusual ports, and this program has read off the bytes."""
    flows = tables.flows
    return {
        f"tcp.port=={int(flows.server_port[exchange.flow])}": _DECODE_AS[exchange.protocol]
        for exchange in tables.exchanges
        if exchange.protocol in _DECODE_AS and exchange.keys == "plain" and int(flows.capture[exchange.flow]) == capture
    }
