"""Places for the units that gRPC streams hold: so many in all, and so many of one client."""

from __future__ import annotations

from collections import Counter

from serving.access.entry import principal
from serving.errors import Overloaded
from serving.metrics import Metrics


class StreamPlaces:
    """Counts units in the metrics, and by client."""

    def __init__(self, metrics: Metrics, cap: int, client_cap: int) -> None:
        self._metrics, self._cap, self._client_cap = metrics, cap, client_cap
        self._by_client: Counter[str] = Counter()

    def take(self, client: str, n: int) -> None:
        """n more places for a client. Raises: Overloaded"""
        if n > 0:
            if self._metrics.n_streams + n > self._cap:
                raise Overloaded(f"streams hold {self._cap} units at most")
            if self._by_client[client] + n > self._client_cap:
                raise Overloaded(
                    f"your streams hold {self._by_client[client]} units; "
                    f"the limit for one client is {self._client_cap}"
                )
        self._metrics.n_streams += n
        self._by_client[client] += n

    def give_back(self, client: str, n: int) -> None:
        self._metrics.n_streams -= n
        self._by_client[client] -= n
        if not self._by_client[client]:
            del self._by_client[client]


def client_of(peer: str) -> str:
    """Who counts as one client: whoever has shown a credential, else an address.

    Args:
        peer: as gRPC names it: `ipv4:127.0.0.1:50051`.
    """
    asking = principal.get()
    return peer.rpartition(":")[0] if asking is None else asking.name
