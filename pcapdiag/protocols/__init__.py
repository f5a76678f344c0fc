"""Sans-IO protocol readers: bytes of one direction go in, events with byte offsets come out; no clock, no sockets."""
