"""Two captures of one path: flows and packets matched, clocks compared, each loss placed."""

from pcapdiag.pair.join import pair_captures

__all__ = ["pair_captures"]
