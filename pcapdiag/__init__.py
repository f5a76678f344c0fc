"""pcapdiag: what the network did to an agent's requests."""

__version__ = "0.1.0"
