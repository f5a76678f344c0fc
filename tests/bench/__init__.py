"""What pcapdiag costs beside tshark and tcptrace, and how that grows: `make bench`."""


class BenchError(Exception):
    """A measurement could not be made; the message says why."""
