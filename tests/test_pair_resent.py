"""Resends per connection, from two taps."""

from __future__ import annotations

from pathlib import Path

from tests.two_taps import Tapped, Taps, counts

MSS = 1_448
NONE = {"before_tap": 0, "behind_tap": 0, "ack": 0}


def resent(taps: Taps, folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """The kinds that occur, and what was lost, in all connections."""
    found = taps.diagnosed(folder).tables.resent
    kinds = {name: int(getattr(found, name).sum()) for name in found.columns() if name != "flow" and not name.startswith("lost_")}
    lost = {name: int(getattr(found, f"lost_{name}").sum()) for name in NONE}
    return {name: count for name, count in kinds.items() if count}, lost


def test_each_direction_is_classed_where_it_was_sent(tmp_path: Path) -> None:
    """The end of an answer, which comes by probe: without IP-IDs the client sees only that it is late."""

    def script(wire: Tapped) -> None:
        wire.handshake().send(8_000, lose=wire.between("client"), only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client")
        wire.wait(ms=20).reply(200, lose=wire.between("server")).wait(ms=230).resend(by="server").send(10)

    taps = Taps.of(script, ip_id=False)
    assert resent(taps, tmp_path) == ({"fast": 1, "probe": 1}, NONE | {"before_tap": 1, "behind_tap": 1})


def test_every_copy_that_was_lost_counts(tmp_path: Path) -> None:
    def script(wire: Tapped) -> None:
        wire.handshake().send(100).reply(100, lose=wire.between("server")).wait(ms=230).resend(by="server", lose=wire.between("server"))
        wire.wait(ms=240).resend(by="server").send(10)

    assert resent(Taps.of(script), tmp_path) == ({"probe": 1, "rto": 1}, NONE | {"before_tap": 2})


def test_a_needless_one_and_its_lost_acknowledgment_count_as_that(tmp_path: Path) -> None:
    """Nothing but the other tap shows it: neither SACK nor timestamps."""

    def script(wire: Tapped) -> None:
        wire.acks("none", "server").syn().syn_ack().ack().send(300).ack("server", lose=wire.between("server"))
        wire.wait(ms=230).resend(by="client").wait(ms=2).ack("server")

    assert resent(Taps.of(script, sack=False, timestamps=False), tmp_path) == ({"spurious": 1}, NONE | {"ack": 1})


def test_overtaken_originals_count_where_they_came(tmp_path: Path) -> None:
    def script(wire: Tapped) -> None:
        wire.handshake().send(8_000, late_ms=1.5 if wire.here == "server" else 0, only=[1]).wait(ms=30).reply(10)

    assert resent(Taps.of(script), tmp_path) == ({"reordered": 1}, NONE)


def test_a_connection_that_one_capture_lacks_is_as_the_other_shows_it(tmp_path: Path) -> None:
    def both(wire: Tapped) -> None:
        wire.handshake().send(100).reply(100).wait(ms=900).send(100).reply(100)

    def lost(wire: Tapped) -> None:
        wire.handshake().send(100, lose="after").wait(ms=230).resend(by="client").reply(10)

    taps = Taps.of(both, lost)
    alone = [i for i, (_, data) in enumerate(taps.server) if 50_001 in {int.from_bytes(data[at : at + 2], "big") for at in (34, 36)}]
    assert resent(taps.without(server=alone), tmp_path) == ({"probe": 1}, NONE | {"behind_tap": 1})


def test_a_fin_is_placed_like_bytes(tmp_path: Path) -> None:
    def script(wire: Tapped) -> None:
        wire.handshake().send(100).reply(10).acks("none", "server").fin().ack("server", lose=wire.between("server"))
        wire.wait(ms=230).fin().wait(ms=2).ack("server")

    taps = Taps.of(script)
    assert counts(taps.paired(tmp_path)) == ({"ack-lost": 1}, {"between": 1})
    assert resent(taps, tmp_path) == ({"spurious": 1}, NONE | {"ack": 1})
