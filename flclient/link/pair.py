"""A client's connection to the relay, and the one to the server that goes with it.

The server is connected to when the last packet of a handshake through the injected link would be there; what the client
has said by then counts as said when it would have been connected. Where there is no way to the server, and where one
side resets its connection, so does the relay on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING

from flclient.link.flow import End, Flow
from flclient.link.protocol import Tcp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flclient.link.gate import Gate

Target = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]
"""An address to connect to, as socket.getaddrinfo gives it."""

_RESET = struct.pack("ii", 1, 0)
_INFO_BYTES = 256
_NAME_BYTES = 16


class Pair:
    """Both connections and what goes through them; `on_over` is called once, when both are closed."""

    def __init__(self, up: Gate, down: Gate, near: socket.socket, on_over: Callable[[Pair], None]) -> None:
        self._up_lane, self._down_lane, self._loop = up.lane, down.lane, up.loop
        self._near, self._far = near, None  # type: socket.socket, socket.socket | None
        self._on_over, self._over = on_over, False
        self._up = Flow(up, near, partial(self._end, up=True), self._server_refuses)
        self._down_gate = down
        self._down: Flow | None = None
        self._ended: set[bool] = set()
        self._reaching: asyncio.Task[None] | None = None

    def start(self, targets: Sequence[Target]) -> None:
        """Begin: the client has just been accepted."""
        one_way_ns, back_ns = self._up_lane.delay_ns, self._down_lane.delay_ns
        accepted_ns = time.monotonic_ns()
        self._up.start(accepted_ns + one_way_ns + back_ns)
        self._reaching = self._loop.create_task(self._reach(targets, (2 * one_way_ns + back_ns) / 1e9))

    def close(self) -> None:
        """End both connections in order, at once."""
        if self._over:
            return
        self._over = True
        if self._reaching is not None:
            self._reaching.cancel()
        for flow in (self._up, self._down):
            if flow is not None:
                flow.close()
        for one in (self._near, self._far):
            if one is not None:
                one.close()
        self._on_over(self)

    def tcp(self) -> Tcp | None:
        """Return what the kernel knows of the connection to the server; None without one."""
        if self._far is None:
            return None
        with contextlib.suppress(OSError):
            info = self._far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            name = self._far.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
            return Tcp(info=info, congestion=name.rstrip(b"\0").decode("ascii", "replace"))
        return None

    async def _reach(self, targets: Sequence[Target], wait_s: float) -> None:
        if wait_s:
            await asyncio.sleep(wait_s)
        for target in targets:
            with contextlib.suppress(OSError):
                self._begin(await self._connect(target))
                return
        self._reset()

    async def _connect(self, target: Target) -> socket.socket:
        family, address = target
        with contextlib.ExitStack() as undo:
            far = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            far.settimeout(0)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(far, address)
            undo.pop_all()
        return far

    def _begin(self, far: socket.socket) -> None:
        self._far = far
        self._down = Flow(self._down_gate, far, partial(self._end, up=False), self._client_refuses)
        self._down.open(self._near)
        self._down.start(0)
        self._up.open(far)

    def _end(self, end: End, *, up: bool) -> None:
        """Pass on the end of one direction, which has come through."""
        target = self._far if up else self._near
        if end is End.RESET or target is None:
            self._reset()
            return
        with contextlib.suppress(OSError):  # the target has gone meanwhile, which the other direction will hear
            target.shutdown(socket.SHUT_WR)
        self._ended.add(up)
        if len(self._ended) == len((True, False)):
            self.close()

    def _server_refuses(self) -> None:
        """Let the client hear that the server has gone, when that is due."""
        if self._down is not None:
            self._down.lose_source()

    def _client_refuses(self) -> None:
        self._up.lose_source()

    def _reset(self) -> None:
        for one in (self._near, self._far):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()
