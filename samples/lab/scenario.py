"""What a scenario is: the work, the wire, the same work over a clean wire, and what the captures must show afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from samples.lab.wire import Link, Spec
from samples.lab.work import Plan

if TYPE_CHECKING:
    from samples.lab.wire import Rule

LABELS = (
    "packet-loss-recovery",
    "tail-loss-rto",
    "syn-loss",
    "pmtu-blackhole",
    "link-blackout",
    "bufferbloat",
    "rtt-step",
    "zero-window",
    "h2-flow-control",
    "h2-tcp-hol",
    "microburst-loss",
    "retry-storm",
    "rst-injected",
    "dns-timeout",
    "idle-timeout-drop",
    "capture-loss",
    "reordering",
)
"""What a diagnosis could wrongly name; those that are neither root causes nor acceptable become `not_causes`."""


RESENT = "resent by "
"""A check's filter may be this and an address: data segments that bring no new byte, counted in the sender's capture."""


@dataclass(frozen=True)
class Check:
    """A tshark display filter (or RESENT) and how many packets it must find; file is client.pcap or server.pcap."""

    text: str
    file: str
    filter: str
    low: int = 0
    high: int | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One labelled run; `name` is its folder."""

    name: str
    description: str
    root_causes: tuple[str, ...]
    plan: Plan
    wire: Spec
    rtt_s: float
    clean_plan: Plan | None = None
    """The same work without the fault, where the fault is in the plan; None: the same plan."""
    clean_wire: Spec | None = None
    """The wire without the fault; None: the scenario has no fault, and nothing is compared."""
    think_is_root: bool = False
    """Whether the model's time is what the agents waited for."""
    cause: str = ""
    """The root cause that owns the excess over the clean run."""
    measured: tuple[str, ...] = ("",)
    """Prefixes of the ids whose excess counts."""
    also_acceptable: tuple[str, ...] = ()
    capture_artefacts: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: str = ""
    looks_like: str = ""
    """For the README: what a reader sees in the captures."""
    numbers: dict[str, object] = field(default_factory=dict)
    """The parameters that the scenario was made with, if they differ from its defaults."""
    command: str = ""
    """What to type to make it again."""


def path(rtt_s: float, *rules: Rule, c2s: Link | None = None, s2c: Link | None = None) -> Spec:
    """A wire with half of the round trip in each direction and no other limit."""
    half = Link(delay_s=rtt_s / 2)
    return Spec(c2s=c2s or half, s2c=s2c or half, rules=rules)
