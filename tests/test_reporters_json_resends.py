"""Flows of the JSON report say what was sent again, and where the losses were."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema

from pcapdiag.pipeline import diagnose
from pcapdiag.reporters import REPORTERS
from tests.wire import Wire, merge

SCHEMA = json.loads(resources.files("pcapdiag.reporters").joinpath("schema.json").read_text(encoding="utf-8"))
MSS = 1_448


def test_flows_with_resends_say_what_they_were_and_where_the_losses_were() -> None:
    lossy = Wire(cport=40_001).handshake().send(8_000, lose="after", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client").reply(10)
    clean = Wire(cport=40_002, start_ms=5).handshake().send(100).reply(100)
    report = json.loads(REPORTERS["json"](diagnose(merge(lossy, clean).trace()), width=80))
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    first, second = report["flows"]
    assert {kind for kind, count in first["retransmissions"].items() if count} == {"fast"}
    assert first["retransmissions"]["fast"] == 1
    assert first["lost"] == {"before_tap": 0, "behind_tap": 1, "ack": 0}
    assert not {"retransmissions", "lost"} & second.keys()
