"""Tables of exchanges that are given one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.exchanges.draft import Draft
from pcapdiag.exchanges.drafted import gather
from pcapdiag.exchanges.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.exchanges.table import Exchange, Exchanges


def exchanges_of(rows: Sequence[Exchange]) -> Exchanges:
    """The table of exchanges of which row i has id i."""
    table = gather([_draft(row) for row in rows]).exchanges
    return replace(
        table,
        part_of=np.array([-1 if row.part_of is None else row.part_of for row in rows], np.int32),
        setup=Ragged.of([row.setup for row in rows]),
        request_len=np.array([row.request_len for row in rows], np.int64),
        response_len=np.array([row.response_len for row in rows], np.int64),
    )


def _draft(row: Exchange) -> Draft:
    return Draft(
        row.flow, row.protocol, row.name, inferred=row.inferred, keys=row.keys, h2_stream=row.h2_stream, request=list(row.request),
        response=list(row.response), status=row.status, outcome=row.outcome, aborted_by=row.aborted_by, messages=row.messages.tolist(),
        deadline_ns=row.deadline_ns, attempt=row.attempt, facts=dict(row.facts), start_ns=row.start_ns,
        request_start_ns=row.request_start_ns, request_end_ns=row.request_end_ns, request_in_order_ns=row.request_in_order_ns,
        request_acked_ns=row.request_acked_ns, first_byte_ns=row.first_byte_ns, end_ns=row.end_ns, tries=row.tries, frames=row.frames,
    )  # fmt: skip
