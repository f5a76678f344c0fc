"""Step 6: the ledger: where every second of every exchange went."""

from pcapdiag.stalls.partition import keep_ledger

__all__ = ["keep_ledger"]
