"""Step 3: packets -> flows, and the per-packet TCP columns."""

from pcapdiag.flows.assemble import group_flows

__all__ = ["group_flows"]
