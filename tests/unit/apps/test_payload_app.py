import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from flclient.apps.payload import client_app, server_app

ROOT = Path(__file__).parents[3]


def test_payload_goes_there_and_back_every_round(make_grid: Callable, server_context: Callable) -> None:
    """Three clients, two rounds: six instructions that number their round, six replies with the very same bytes."""
    config = {"payload-bytes": 1000, "num-server-rounds": 2}
    grid = make_grid(client_app.app, config, 3)
    server_app.app(grid, server_context(config))
    rounds = [message.content["config"]["server-round"] for message in grid.instructions]
    assert rounds == [1, 1, 1, 2, 2, 2]
    assert [message.metadata.dst_node_id for message in grid.instructions] == [101, 102, 103] * 2
    sent = grid.instructions[0].content["arrays"]
    assert all(reply.content["arrays"] == sent for reply in grid.replies)
    assert [reply.content["metrics"]["num-examples"] for reply in grid.replies] == [1] * 6


@pytest.mark.parametrize(("config", "size"), [({}, 248_024), ({"payload-bytes": 5}, 5), ({"payload-bytes": 0}, 0)])
def test_payload_has_the_size_asked_for(make_grid: Callable, server_context: Callable, config: dict, size: int) -> None:
    """The default is the size of the study's weights; on the wire NumPy adds a header of 128 bytes."""
    grid = make_grid(client_app.app, config, 1)
    server_app.app(grid, server_context({**config, "num-server-rounds": 1}))
    (array,) = grid.instructions[0].content["arrays"].values()
    assert array.numpy().nbytes == size
    assert len(array.data) == size + 128


def test_payload_is_the_same_for_a_seed_and_does_not_compress() -> None:
    (array,) = server_app.payload(100_000, seed=1).values()
    (again,) = server_app.payload(100_000, seed=1).values()
    assert array.data == again.data
    assert np.bincount(array.numpy(), minlength=256).max() < 500


def test_changed_bytes_stop_the_run(make_grid: Callable, server_context: Callable) -> None:
    """A network that alters the payload is not measured but reported."""
    liar = ClientApp()

    @liar.train()
    def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
        return Message(RecordDict({"arrays": server_app.payload(10, seed=2)}), reply_to=message)

    with pytest.raises(server_app.PayloadError, match="node 101"):
        server_app.app(make_grid(liar, {}, 1), server_context({"payload-bytes": 10}))


def failing_on(*nodes: int) -> ClientApp:
    """Return the app as it is where the memory of these nodes is too small."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if message.metadata.dst_node_id in nodes:
            return Message(Error(code=0, reason="out of memory"), reply_to=message)
        return client_app.app(message, context)

    return app


def test_a_failed_client_is_logged_and_the_rounds_go_on(
    make_grid: Callable, server_context: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    grid = make_grid(failing_on(101), {}, 2)
    with caplog.at_level(logging.INFO):
        server_app.app(grid, server_context({"payload-bytes": 10, "num-server-rounds": 2}))
    assert len(grid.instructions) == 4
    assert "node 101 failed: out of memory" in caplog.text
    assert "round 2: 1 of 2 payloads came back" in caplog.text


def test_no_client_at_all_is_an_error(make_grid: Callable, server_context: Callable) -> None:
    """There is nothing to measure then, and nothing is to be expected of the next round."""
    grid = make_grid(failing_on(101, 102), {}, 2)
    with pytest.raises(server_app.PayloadError, match="round 1: the app failed on every client; out of memory"):
        server_app.app(grid, server_context({"payload-bytes": 10, "num-server-rounds": 2}))


def test_app_needs_no_torch() -> None:
    """The network is measured on hosts without PyTorch too."""
    script = (
        "import sys; from flclient.apps.payload import client_app, server_app; "
        "server_app.payload(10, 1); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
