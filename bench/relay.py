"""Stands in front of TCP servers and adds a round trip: every byte waits half of it, in each direction.

    python bench/relay.py RTT_MS TARGET_PORT...

Prints the ports to connect to, one a line in the same order, and serves until its standard input ends. It does not
limit the rate. A client is connected at once, without the round trip that TCP takes for it; the first bytes make up for
that: the target is connected to after one and a half round trips, as on a long line.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import sys
import time
from functools import partial

PIECE = 1 << 16
AHEAD = 256
"""Pieces on the way at once, in each direction of each connection."""


async def main() -> None:
    """Serve until standard input ends."""
    delay_s, targets = float(sys.argv[1]) / 2e3, [int(word) for word in sys.argv[2:]]
    servers = [
        await asyncio.start_server(partial(_relay, target, delay_s), "127.0.0.1", 0, limit=PIECE) for target in targets
    ]
    print("\n".join(str(server.sockets[0].getsockname()[1]) for server in servers), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.close()


async def _relay(target: int, delay_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3 * delay_s)
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, limit=PIECE)
    for one in (writer, far_writer):
        one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, asyncio.CancelledError):
        # What the client sent meanwhile has been on its way since: it is due at once.
        there = _pass_on(reader, far_writer, delay_s, waited_s=delay_s)
        await asyncio.gather(there, _pass_on(far_reader, writer, delay_s))
    for one in (writer, far_writer):
        one.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, waited_s: float = 0.0
) -> None:
    """Write what is read, each piece when it is due, and the end of it last; the first has `waited_s` behind it."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)

    async def read() -> None:
        waited = waited_s
        while True:
            try:
                data = await reader.read(PIECE)
            except OSError:
                data = b""
            await waiting.put((time.monotonic() + delay_s - waited, data))
            waited = 0.0
            if not data:
                return

    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
    finally:
        reading.cancel()


if __name__ == "__main__":
    # epoll rounds time-outs up to whole milliseconds, select does not.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main())
