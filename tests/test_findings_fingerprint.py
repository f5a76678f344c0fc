"""What tells one fault from another, over days and captures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pcapdiag.findings import rank
from tests.diagnoses import AGENT, DETECTORS, OTHER_SERVER, SERVER, at, conclusion, exchange, flows, ledger, tables

if TYPE_CHECKING:
    from pcapdiag.exchanges.table import Exchange
    from pcapdiag.findings import Conclusion
    from pcapdiag.flows.table import Flows


def fingerprint(row: Exchange, found: Conclusion, *, columns: Flows | None = None) -> str:
    (finding,) = rank([found], ledger((row,)), tables((row,), flows=columns), DETECTORS)
    return finding.fingerprint


def test_a_fingerprint_knows_the_fault_not_the_day() -> None:
    found = conclusion("pmtu-black-hole", (0, 1, 3), identity=("1004", "1499"))
    another_day = replace(found, intervals=((0, at(50), at(60)),), stall_ns=7, summary="again")
    prints = {fingerprint(exchange(0, 0, 9), found), fingerprint(exchange(0, 0, 99), another_day)}
    prints.add(fingerprint(exchange(0, 0, 9), found, columns=flows((AGENT, 60_000, SERVER, 443, 6))))
    assert len(prints) == 1
    prints.add(fingerprint(exchange(0, 0, 9), found, columns=flows((AGENT, 51_522, OTHER_SERVER, 443, 6))))
    prints.add(fingerprint(exchange(0, 0, 9), replace(found, identity=("1004", "1400"))))
    assert len(prints) == 3


def test_a_named_server_keeps_its_fingerprint_when_its_address_changes() -> None:
    row = exchange(0, 0, 9, facts={"server_name": "api.example"})
    found = conclusion("pmtu-black-hole", (0, 1, 3))
    assert fingerprint(row, found) == fingerprint(row, found, columns=flows((AGENT, 1, OTHER_SERVER, 443, 6)))
