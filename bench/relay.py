"""Stands in front of TCP servers and adds a round trip: every byte waits half of it, in each direction.

    python bench/relay.py RTT_MS TARGET_PORT...

Prints the ports to connect to, one a line in the same order, and serves until its standard input ends. It does not
limit the rate. The TCP and SSH handshakes of a connection wait like everything else, but that of the relay's own
connection to its target happens while the client's is already open.
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
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, limit=PIECE)
    for one in (writer, far_writer):
        one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        await asyncio.gather(_pass_on(reader, far_writer, delay_s), _pass_on(far_reader, writer, delay_s))
    for one in (writer, far_writer):
        one.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Write what is read, each piece when it is due, and the end of it last."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)

    async def read() -> None:
        while True:
            try:
                data = await reader.read(PIECE)
            except OSError:
                data = b""
            await waiting.put((time.monotonic() + delay_s, data))
            if not data:
                return

    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - time.monotonic())
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
