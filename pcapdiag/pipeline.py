"""The map of the program: eight steps, called in order.

One shard is the case of one: scan gives its rows, analyse its exchanges and signs, merge the diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pcapdiag.capture import CaptureReader, read_capture
from pcapdiag.detectors import DETECTORS
from pcapdiag.errors import CaptureError
from pcapdiag.exchanges import make_calls, pair_exchanges
from pcapdiag.findings import Detector, Diagnosis, Failure, conclude, dissect_cited, see, see_across
from pcapdiag.flows import group_flows
from pcapdiag.losses import Losses
from pcapdiag.packets import decode_packets
from pcapdiag.stalls import keep_ledger
from pcapdiag.streams import reassemble
from pcapdiag.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may choose of an analysis."""

    vantage: str | None = None
    """client, server or middle: where the capture was taken, when the user knows better."""
    dissect: bool = False
    """Add tshark's own dissection of each cited frame."""
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Detector code -> threshold -> value."""


def diagnose_files(paths: Sequence[str], options: Options = Options(), *, detectors: Sequence[Detector] = DETECTORS) -> Diagnosis:
    """Reads captures and diagnoses them; unreadable ones are failures of the diagnosis unless all are.

    Raises:
        CaptureError: none of the inputs is a capture.
    """
    trace, failures = scan(paths, options)
    diagnosis = diagnose(trace, detectors, options=options, failures=failures)
    return dissect_cited(diagnosis, paths) if options.dissect else diagnosis


def load(path: str) -> Trace:
    """All tables of one capture (raises CaptureError)."""
    return scan([path], Options())[0]


def scan(paths: Sequence[str], options: Options) -> tuple[Trace, tuple[Failure, ...]]:
    """Steps 1 to 5: files -> Trace."""
    losses, readers = Losses(), list[CaptureReader]()
    failures: list[Failure] = []
    for path in paths:
        try:
            readers.append(read_capture(path, losses, index=len(readers)))
        except CaptureError as error:
            failures.append(Failure("input", str(error)))
            if len(failures) == len(paths):
                raise CaptureError("; ".join(failure.what for failure in failures)) from error
    packets = decode_packets((frames for reader in readers for frames in reader), losses)
    captures = tuple(reader.capture for reader in readers)
    tcp = group_flows(packets, captures, side=options.vantage)
    streams = reassemble(packets, tcp)
    paired = pair_exchanges(packets, tcp, streams, losses)
    start_ns = int(packets.ts_ns[packets.capture == packets.capture.min()].min()) if len(packets) else 0
    trace = Trace(
        captures=captures, quality=tcp.quality, vantages=tcp.vantages, addresses=packets.addresses, flows=tcp.flows,
        exchanges=paired.exchanges, h2=paired.h2, calls=make_calls(paired.exchanges, tcp.flows), start_ns=start_ns, losses=losses,
        packets=packets, tcp=tcp, streams=streams,
    )  # fmt: skip
    return trace, tuple(failures)


def diagnose(
    trace: Trace,
    detectors: Sequence[Detector] = DETECTORS,
    *,
    options: Options = Options(),
    failures: Sequence[Failure] = (),
) -> Diagnosis:
    """Steps 6 and 7: Trace -> Diagnosis."""
    crashed = list(failures)
    signs = see(trace, detectors, options.limits, crashed) + see_across(trace, detectors, options.limits, crashed)
    ledger = keep_ledger(trace, signs)
    return conclude(trace, ledger, signs, detectors, crashed)
