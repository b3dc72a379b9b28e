"""The open connections of each trusted certificate, so that they end with its trust."""

import asyncio
from weakref import WeakSet


class Sessions:
    """Connections by the fingerprint of the certificate that was shown on them; closed ones are forgotten."""

    def __init__(self) -> None:
        self._transports: dict[str, WeakSet[asyncio.Transport]] = {}

    def add(self, fingerprint: str, transport: asyncio.Transport) -> None:
        """Remember a connection. Repeatable."""
        self._transports.setdefault(fingerprint, WeakSet()).add(transport)

    def end(self, fingerprint: str, besides: asyncio.BaseTransport | None = None) -> None:
        """Break off all connections of a certificate but one.

        Websockets, streams and upgraded connections end with them, and so what runs for those.
        """
        for transport in list(self._transports.pop(fingerprint, ())):
            if transport is not besides and not transport.is_closing():
                transport.abort()
