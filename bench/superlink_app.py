"""The payload app for Flower's own engine: the same bytes to all nodes and back; writes when each round began and took.

`bench/superlink.py` puts it into a Flower app of its own; it is imported nowhere else.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

from flclient.apps.payload.client_app import app as client
from flclient.apps.payload.server_app import check, payload

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

__all__ = ["client", "server"]

server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for all nodes, then do the rounds; raises RuntimeError if one did not reply as it should."""
    config = context.run_config
    clients, result = int(config["clients"]), Path(str(config["result"]))
    arrays = payload(int(config["payload-bytes"]), 1)
    while len(list(grid.get_node_ids())) < clients:
        time.sleep(0.2)
    rounds: list[tuple[int, float]] = []
    for number in range(1, int(config["num-server-rounds"]) + 1):
        started_ns = time.monotonic_ns()
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": number})})
        messages = [Message(content, node_id, "train", group_id=str(number)) for node_id in grid.get_node_ids()]
        if check(list(grid.send_and_receive(messages)), arrays) != clients:
            raise RuntimeError(f"round {number}: not all payloads came back")
        rounds.append((started_ns, (time.monotonic_ns() - started_ns) / 1e9))
    part = result.with_suffix(".part")
    part.write_text(json.dumps(rounds))
    part.rename(result)
