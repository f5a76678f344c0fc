"""The map of the program: eight steps, called in order.

One shard is the case of one: scan gives its rows, analyse its exchanges and signs, merge the diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pcapdiag.capture import Recordings, gather_inputs
from pcapdiag.detectors import DETECTORS
from pcapdiag.errors import CaptureError
from pcapdiag.exchanges import make_calls, pair_exchanges
from pcapdiag.findings import Detector, Diagnosis, Failure, conclude, dissect_cited, place_findings, place_signs, see, see_across
from pcapdiag.flows import find_clock_steps, group_flows, straighten
from pcapdiag.flows.resent_stretches import count_resends
from pcapdiag.losses import Losses
from pcapdiag.options import DEFAULTS, TABLES_SHARE, Options
from pcapdiag.packets import decode_packets
from pcapdiag.spool import Room
from pcapdiag.stalls import keep_ledger
from pcapdiag.streams import reassemble
from pcapdiag.trace import Trace
from pcapdiag.workers import available_cores

if TYPE_CHECKING:
    from pcapdiag.capture import Capture
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets import Packets
    from pcapdiag.pair.side import Group
    from pcapdiag.pair.table import Pair


def diagnose_files(paths: Sequence[str], options: Options = DEFAULTS, *, detectors: Sequence[Detector] = DETECTORS) -> Diagnosis:
    """Reads captures and diagnoses them; unreadable ones are failures of the diagnosis unless all are.

    Raises:
        CaptureError: none of the inputs is a capture.
    """
    trace, failures = scan(paths, options)
    diagnosis = diagnose(trace, detectors, options=options, failures=failures)
    return dissect_cited(diagnosis) if options.dissect else diagnosis


def load(path: str) -> Trace:
    """All tables of one capture (raises CaptureError)."""
    return scan([path], DEFAULTS)[0]


def scan(paths: Sequence[str], options: Options) -> tuple[Trace, tuple[Failure, ...]]:
    """Steps 1 to 5: files -> Trace."""
    losses = Losses()
    jobs, room = options.jobs or available_cores(), Room(options.memory_bytes // TABLES_SHARE)
    with gather_inputs(paths) as inputs:
        recordings = Recordings(inputs.captures, losses, apart=options.pair, digest=options.digest or options.pair)
        packets = decode_packets(recordings, losses, room=room)
    captures, failures = recordings.captures, (*inputs.failures, *recordings.failures)
    if not captures or (options.pair and failures):
        raise CaptureError("; ".join(failures))
    steps = find_clock_steps(packets, room)
    packets = straighten(packets, steps, room)
    room.release()
    group = partial(group_flows, captures=captures, side=options.vantage, steps=steps, jobs=jobs, room=room)
    packets, tcp, pair = _paired(packets, captures, group, room) if options.pair else (packets, group(packets), None)
    room.release()
    streams = reassemble(packets, tcp)
    paired = pair_exchanges(packets, tcp, streams, losses, jobs=jobs, room=room)
    start_ns = packets.span_ns(next(packets.captures()), room)[0] if len(packets) else 0
    start_ns = pair.start_ns if pair else start_ns
    trace = Trace(
        captures=captures, quality=tcp.quality, vantages=tcp.vantages, addresses=packets.addresses, flows=tcp.flows,
        exchanges=paired.exchanges, h2=paired.h2, calls=make_calls(paired.exchanges, tcp.flows), start_ns=start_ns, losses=losses,
        packets=packets, tcp=tcp, streams=streams, resent=pair.resent if pair else count_resends(tcp.resends),
        host_facts=inputs.host_facts, notes=tuple(inputs.notes), pair=pair, room=room,
    )  # fmt: skip
    return trace, tuple(Failure("input", failure) for failure in failures)


def _paired(packets: Packets, captures: tuple[Capture, ...], group: Group, room: Room) -> tuple[Packets, TcpTables, Pair]:
    from pcapdiag.pair.join import pair_captures  # noqa: PLC0415 - 30 ms that one capture alone should not cost

    return pair_captures(packets, captures, group, room)


def diagnose(
    trace: Trace,
    detectors: Sequence[Detector] = DETECTORS,
    *,
    options: Options = DEFAULTS,
    failures: Sequence[Failure] = (),
) -> Diagnosis:
    """Steps 6 and 7: Trace -> Diagnosis."""
    crashed, jobs = list(failures), options.jobs or available_cores()
    signs = see(trace, detectors, options.limits, crashed, jobs=jobs) + see_across(trace, detectors, options.limits, crashed)
    signs = place_signs(signs, trace)
    ledger = keep_ledger(trace, signs, jobs=jobs)
    return replace(place_findings(conclude(trace, ledger, signs, detectors, crashed), signs), notes=trace.notes, jobs=jobs)
