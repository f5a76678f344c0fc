"""Step 3: packets -> flows, and the per-packet TCP columns."""

from pcapdiag.flows.assemble import group_flows
from pcapdiag.flows.clock import find_clock_steps, straighten

__all__ = ["find_clock_steps", "group_flows", "straighten"]
