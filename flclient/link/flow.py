"""One direction of one relayed connection: bytes are read, held until they are due, and sent, in order."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from flclient.link.gate import Gate

WINDOW_BYTES = 4 * 1024 * 1024
"""How much one connection may have on the way: what Linux gives a sender at most by default (tcp_wmem)."""


class End(Enum):
    """How a stream of bytes ends: in order, or by a reset."""

    CLOSED = "closed"
    RESET = "reset"


@dataclass(slots=True)
class Piece:
    """Bytes that are held, or the end after them."""

    due_ns: int
    read_ns: int
    data: memoryview | End


class Flow:
    """One direction of a connection. `on_over` hears how it has ended, `on_refused` that the target takes no more."""

    def __init__(
        self, gate: Gate, source: socket.socket, on_over: Callable[[End], None], on_refused: Callable[[], None]
    ) -> None:
        self._gate, self._source = gate, source
        self._on_over, self._on_refused = on_over, on_refused
        self._target: socket.socket | None = None
        self._held: deque[Piece] = deque()
        self._held_bytes = 0
        self._last_due_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing = self._reading = self._full = self._ended = False
        self._not_before_ns = 0

    def start(self, not_before_ns: int) -> None:
        """Begin to read; nothing counts as having come before that time."""
        self._not_before_ns = not_before_ns
        self._read_on()

    def open(self, target: socket.socket) -> None:
        """Begin to send."""
        self._target = target
        self._depart()

    def close(self) -> None:
        """Read and send no more; the sockets are the caller's."""
        self._ended = True
        self._pause()
        self._gate.leave(self._resume)
        self._drop()

    def lose_source(self) -> None:
        """Let the target hear of a reset of the source when that is due, even after an end in order."""
        self._take_end(End.RESET)

    def _read_on(self) -> None:
        if not self._reading and not self._ended:
            self._reading = True
            self._gate.loop.add_reader(self._source, self._read)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._gate.loop.remove_reader(self._source)

    def _read(self) -> None:
        if self._is_full():
            return
        if self._gate.is_open(time.monotonic_ns()):
            self._receive()
        else:
            self._pause()
            self._gate.wait(self._resume)

    def _is_full(self) -> bool:
        """Whether to read no more until something has left."""
        self._full = self._writing or self._held_bytes >= WINDOW_BYTES
        if self._full:
            self._pause()
        return self._full

    def _resume(self) -> None:
        """It is this one's turn: what is there has been waiting for the link, and more of it does."""
        if self._is_full():
            return
        wanted = self._gate.lane.quantum_bytes
        if self._receive(waited=True) == wanted and not self._ended:
            self._gate.wait(self._resume)
        else:
            self._read_on()

    def _receive(self, *, waited: bool = False) -> int:
        """Take what is there, as much as may be taken at once."""
        buffer = self._gate.buffer
        try:
            size = self._source.recv_into(buffer, self._gate.lane.quantum_bytes)
        except BlockingIOError:
            return 0
        except OSError:
            self._take_end(End.RESET)
            return 0
        if size:
            self._take(buffer[:size], waited=waited)
        else:
            self._take_end(End.CLOSED)
        return size

    def _take(self, data: memoryview, *, waited: bool) -> None:
        now_ns = time.monotonic_ns()
        account = self._gate.account
        account.accepted_bytes += len(data)
        came_ns = max(now_ns, self._not_before_ns)
        fate = self._gate.lane.take(len(data), came_ns, self._last_due_ns, waited=waited)
        account.stalled_ns += fate.stalled_ns
        self._last_due_ns = fate.due_ns
        if not self._held and fate.due_ns <= now_ns and self._target is not None:
            data = data[self._send(data, now_ns) :]
            if self._ended:
                account.gone(len(data))
            if not data or self._ended:
                return
        self._hold(Piece(fate.due_ns, now_ns, memoryview(bytes(data))))

    def _take_end(self, end: End) -> None:
        """Delay an end like data; nothing comes after it."""
        self._ended = True
        self._pause()
        self._gate.leave(self._resume)
        if end is End.RESET and self._target is None:
            self._on_over(end)
            return
        now_ns = time.monotonic_ns()
        came_ns = max(now_ns, self._not_before_ns)
        self._hold(Piece(max(self._last_due_ns, came_ns + self._gate.lane.delay_ns), now_ns, end))

    def _hold(self, piece: Piece) -> None:
        self._held.append(piece)
        if isinstance(piece.data, memoryview):
            self._held_bytes += len(piece.data)
        if len(self._held) == 1 and not self._writing:
            self._depart()

    def _depart(self) -> None:
        """Send what is due, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held and not self._writing and self._target is not None:
            piece = self._held[0]
            if piece.due_ns > time.monotonic_ns():
                self._timer = self._gate.alarm(piece.due_ns / 1e9, self._depart)
                break
            if isinstance(piece.data, End):
                self._held.clear()
                self._on_over(piece.data)
                return
            sent = self._send(piece.data, piece.read_ns)
            self._held_bytes -= sent
            if sent == len(piece.data):
                self._held.popleft()
            else:
                piece.data = piece.data[sent:]
        if self._full and not self._is_full():
            self._read_on()

    def _send(self, data: memoryview, read_ns: int) -> int:
        """Send what the target takes, and wait for it where that is not all."""
        if self._target is None:
            return 0
        try:
            sent = self._target.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            self._on_refused()
            return 0
        if sent:
            self._gate.account.sent(sent, time.monotonic_ns() - read_ns)
        if sent < len(data):
            self._writing = True
            self._gate.loop.add_writer(self._target, self._write_on)
        return sent

    def _write_on(self) -> None:
        self._stop_writing()
        self._depart()

    def _stop_writing(self) -> None:
        if self._writing and self._target is not None:
            self._writing = False
            self._gate.loop.remove_writer(self._target)

    def _drop(self) -> None:
        self._stop_writing()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held.clear()
        lost, self._held_bytes = self._held_bytes, 0
        self._gate.account.gone(lost)
