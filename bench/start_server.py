"""Flower's own gRPC engine, `flwr.server.start_server`, on the same work: the yardstick of the engine benchmark.

It is deprecated since Flower 1.13 and the fastest transport that Flower has had.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from outcome import timed
from processes import Fleet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outcome import Outcome, Work

PROGRAM = str(Path(__file__).with_name("start_server_app.py"))
LISTENING = "listening"
"""What the program says once clients can connect."""


def run(work: Work, kind: str, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run once, with clients of this kind; raises BenchmarkFailed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place, Fleet(environment=environment) as fleet:
        home = Path(place)
        address, result = f"127.0.0.1:{free_port()}", home / "rounds.json"
        sizes = [str(one) for one in (work.size_bytes, work.warmup + work.rounds, work.clients)]
        fleet.start(home / "server", [PROGRAM, "server", address, *sizes, str(result)])
        fleet.await_true(lambda: LISTENING in (home / "server" / "stdout").read_text(), "listening server")
        for number in range(work.clients):
            fleet.start(home / f"client-{number}", [PROGRAM, "client", address, kind])
        fleet.wait()
        return timed(work, result, fleet.usage)


def free_port() -> int:
    """Return a port that is free now: `start_server` does not tell which one it took for port 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
