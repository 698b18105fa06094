"""The server half: a Flower ServerApp that sends the same bytes to every client, round after round."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Context, UserConfig
    from flwr.serverapp import Grid

DEFAULT_PAYLOAD_BYTES = 248_024
"""The weights of the CNN in `flclient.apps.cifar10`."""
DEFAULT_ROUNDS = 3
DEFAULT_ROUND_TIMEOUT_S = 3600.0
_PIECE_BYTES = 1 << 24
_LONGEST_AXIS = 1 << 31

app = ServerApp()
log = logging.getLogger(__name__)


class PayloadError(RuntimeError):
    """A reply whose bytes are not those that were sent, or no client that sends any."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send `payload-bytes` to all nodes and back, `num-server-rounds` times; raises PayloadError."""
    config = context.run_config
    arrays = payload(int(config.get("payload-bytes", DEFAULT_PAYLOAD_BYTES)), int(config.get("seed", 1)))
    for server_round in range(1, int(config.get("num-server-rounds", DEFAULT_ROUNDS)) + 1):
        instructions = [_instruction(arrays, node_id, server_round) for node_id in grid.get_node_ids()]
        replies = list(grid.send_and_receive(instructions, timeout=_timeout_s(config)))
        if replies and len(replies) == len(instructions) and all(reply.has_error() for reply in replies):
            raise PayloadError(f"round {server_round}: the app failed on every client; {replies[0].error.reason}")
        whole = check(replies, arrays)
        del replies  # they would be held until the next ones are here
        log.info("round %d: %d of %d payloads came back", server_round, whole, len(instructions))


def payload(size_bytes: int, seed: int) -> ArrayRecord:
    """Return one array of `size_bytes` random bytes, which no link can compress; above 2 GB a multiple of 8.

    On the wire NumPy's file header (128 bytes) and Flower's envelope come on top, as they do for a model's weights.
    """
    source = np.random.default_rng(seed)
    content = np.empty(size_bytes, dtype=np.uint8)
    for start in range(0, size_bytes, _PIECE_BYTES):  # all at once would take four times the memory
        piece = content[start : start + _PIECE_BYTES]
        piece[:] = np.frombuffer(source.bytes(len(piece)), dtype=np.uint8)
    # Flower describes a shape by 32-bit numbers.
    return ArrayRecord([content if size_bytes < _LONGEST_AXIS else content.view(np.uint64)])


def check(replies: Iterable[Message], sent: ArrayRecord) -> int:
    """Return how many replies carry the arrays sent; errors are logged and not counted. Raises PayloadError."""
    whole = 0
    for reply in replies:
        node_id = reply.metadata.src_node_id
        if reply.has_error():
            log.warning("node %d failed: %s", node_id, reply.error.reason)
        elif reply.content["arrays"] != sent:
            raise PayloadError(f"node {node_id} sent back other bytes than it got")
        else:
            whole += 1
    return whole


def _instruction(arrays: ArrayRecord, node_id: int, server_round: int) -> Message:
    config = ConfigRecord({"server-round": server_round})
    content = RecordDict({"arrays": arrays, "config": config})
    return Message(content, node_id, MessageType.TRAIN, group_id=str(server_round))


def _timeout_s(config: UserConfig) -> float:
    return float(config.get("round-timeout", DEFAULT_ROUND_TIMEOUT_S))
