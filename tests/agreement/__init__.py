"""Wireshark's TCP analysis and ours, compared packet by packet: `make agreement`."""
