"""Whose process has connected; the last processes are remembered, so that one that connects often costs little."""

import os
import socket
from collections import OrderedDict

from corral.server.host.programs import peers, pidfd
from corral.server.host.programs.peers import Peer
from corral.server.instances.guest import guests
from corral.server.instances.running import Running

MOST_REMEMBERED = 64


class Identities:
    """The instances of processes. A process that is remembered is held by a pidfd: its number stays its own."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._known: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """By pid: the pidfd, and the instance."""

    def identify(self, connection: socket.socket, peer: Peer) -> int | None:
        """The instance whose process connected, or None. Nothing that this looks at waits for the guest.

        Connections come in the order in which they were made: who had the number before the process that is
        remembered has been asked about before it.
        """
        known = self._known.get(peer.pid)
        if known is not None:
            process, instance_id = known
            if pidfd.is_alive(process) and self._running.find(instance_id) is not None:
                self._known.move_to_end(peer.pid)
                return instance_id
            self._forget(peer.pid)
        try:
            process = peers.hold(connection, peer)
        except OSError:
            return None
        found = guests.find_instance_id(self._running, peer.pid)
        # Only while it lives, what was read about its number was read about it.
        if found is None or not pidfd.is_alive(process):
            os.close(process)
            return None
        self._known[peer.pid] = (process, found)
        if len(self._known) > MOST_REMEMBERED:
            self._forget(next(iter(self._known)))
        return found

    def _forget(self, pid: int) -> None:
        os.close(self._known.pop(pid)[0])

    def close(self) -> None:
        """Remember nothing any more."""
        for pid in list(self._known):
            self._forget(pid)
