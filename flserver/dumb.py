"""Which clients' connections have gone dumb: a frozen process, for which its kernel still answers, or a dead link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flcommon.sockets import connections, peer_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flcommon.eventlog import Moment
    from flserver.peer import Line, Peer


def dumb_lines(peers: Iterable[Peer], patience_s: float, at: Moment) -> list[Line]:
    """Return the connections from which nothing has come for too long, as this process and as its kernel sees it.

    A frozen process, or a link that went down while all buffers were full. gRPC's own keepalive finds other dead links,
    and takes a minute for these (grpc.http2.ping_timeout_ms). To lower that would end connections on which an answer
    has to queue behind a message: the kernel knows of those.
    """
    suspects = [peer.line for peer in peers if peer.line is not None and peer.heard_at.until_s(at) >= patience_s]
    if not suspects:
        return []
    silent = {one.peer for one in connections() if one.silent_s >= patience_s}
    return [line for line in suspects if peer_address(line.address) in silent]
