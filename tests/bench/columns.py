"""`python -m tests.bench.columns CAPTURE`: pcapdiag as far as the TCP columns, which is what tshark's expert pass works out, too."""

from __future__ import annotations

import sys

from pcapdiag.capture import read_capture
from pcapdiag.flows import group_flows
from pcapdiag.losses import Losses
from pcapdiag.packets import decode_packets

if __name__ == "__main__":
    losses = Losses()
    reader = read_capture(sys.argv[1], losses)
    packets = decode_packets(reader, losses)
    print(len(group_flows(packets, (reader.capture,)).segments))
