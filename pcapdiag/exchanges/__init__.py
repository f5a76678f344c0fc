"""Step 5: exchanges (a request and its response, a lookup, a connect, a handshake) and the calls they are attempts of."""

from pcapdiag.exchanges.calls import make_calls
from pcapdiag.exchanges.pair import Paired, pair_exchanges

__all__ = ["Paired", "make_calls", "pair_exchanges"]
