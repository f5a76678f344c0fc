"""Two captures of one path: flows and packets matched, clocks compared, each loss placed."""
