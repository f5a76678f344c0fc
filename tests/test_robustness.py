"""Whatever a capture holds, it is analysed to the end: no exception, no warning, no frame and no nanosecond unaccounted for."""

from __future__ import annotations

import json
import time
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag.detectors import DETECTORS
from pcapdiag.errors import CaptureError
from pcapdiag.losses import FRAME_LOSSES
from pcapdiag.options import Options
from pcapdiag.pipeline import diagnose, scan
from pcapdiag.reporters import REPORTERS
from tests.mutated import Mutation, captures, file_of, mutations
from tests.test_stalls_partition import is_exact

PUBLIC: Final = Path(__file__).parent.parent.parent / "shared" / "captures" / "public"
BUDGET_S: Final = 18
EXAMPLES: Final = settings().max_examples


@cache
def schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(resources.files("pcapdiag.reporters").joinpath("schema.json").read_text("utf-8")))


def is_accounted_for(path: Path) -> None:
    """The whole pipeline and every report of one capture.

    Raises:
        CaptureError: it is none.
        AssertionError: a frame, a nanosecond or a detector was lost on the way.
    """
    trace, _ = scan([str(path)], Options())
    lost = {loss.value: number for loss, number in trace.losses.of(0).items() if loss in FRAME_LOSSES}
    diagnosis = diagnose(trace, DETECTORS)
    assert diagnosis.failures == ()
    for exchange, entries in zip(trace.exchanges, diagnosis.ledger.exchanges, strict=True):
        is_exact(exchange, entries)
    document = json.loads(REPORTERS["json"](diagnosis, width=80))
    assert [f"{error.json_path}: {error.message}" for error in schema().iter_errors(document)] == []
    (capture,) = document["captures"]
    assert (capture["decoded"], capture["not_decoded"]) == (len(trace.packets), lost)
    assert capture["frames"] == capture["decoded"] + sum(lost.values())
    for name in ("text", "markdown"):
        assert REPORTERS[name](diagnosis, width=80).replace("\n", "").isprintable()


def judge(capture: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.pcap"
        path.write_bytes(capture)
        is_accounted_for(path)


@pytest.fixture(autouse=True)
def _numbers_do_not_overflow() -> object:
    with np.errstate(all="raise", under="ignore"):
        yield


@given(st.sampled_from(range(len(captures()))), mutations())
@settings(max_examples=4 * EXAMPLES)
def test_changed_packets_are_accounted_for(source: int, changes: list[Mutation]) -> None:
    packets = list(captures()[source])
    for change in changes:
        packets = change(packets)
    judge(file_of(packets))


@given(
    st.sampled_from(range(len(captures()))),
    st.lists(st.tuples(st.integers(24, 20_000), st.integers(1, 255)), max_size=4),
    st.none() | st.integers(24, 20_000),
    st.binary(max_size=40),
)
@settings(max_examples=EXAMPLES)
def test_a_damaged_file_is_read_as_far_as_it_goes(source: int, flips: list[tuple[int, int]], cut: int | None, tail: bytes) -> None:
    damaged = bytearray(file_of(list(captures()[source])))
    for at, bits in flips:
        damaged[24 + (at - 24) % (len(damaged) - 24)] ^= bits
    judge(bytes(damaged[:cut]) + tail)


def test_public_captures_are_accounted_for() -> None:
    """A sample of real files, most of them made to break parsers."""
    files = sorted(path for path in PUBLIC.rglob("*") if path.is_file())
    if not files:
        pytest.skip("no public captures beside this tree")
    begun, judged = time.monotonic(), 0
    for path in files[::9]:
        if time.monotonic() - begun > BUDGET_S:
            break
        try:
            is_accounted_for(path)
        except CaptureError:
            continue
        except BaseException as error:
            error.add_note(str(path))
            raise
        judged += 1
    assert judged > 50
