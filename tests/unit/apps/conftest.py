import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # flwr reads it when first imported
from collections.abc import Callable, Iterable
from itertools import count

import pytest
from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1
FIRST_CLIENT_NODE = 101


class FakeGrid(Grid):
    """A grid whose nodes are calls of a ClientApp in this process; messages pass through Flower's wire format."""

    def __init__(self, app: ClientApp, run_config: UserConfig, clients: int) -> None:
        self.app = app
        self.contexts = {
            FIRST_CLIENT_NODE + part: Context(
                run_id=TaskIdentity.run_id,
                node_id=FIRST_CLIENT_NODE + part,
                node_config={"partition-id": part, "num-partitions": clients},
                state=RecordDict(),
                run_config=run_config,
            )
            for part in range(clients)
        }
        self.instructions: list[Message] = []
        self.replies: list[Message] = []
        self._ids = count(1)

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - Flower's signature
    ) -> Iterable[Message]:
        replies = [self._ask(message) for message in messages]
        self.replies += replies
        return replies

    def _ask(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = f"message-{next(self._ids)}"
        instruction = message_from_proto(message_to_proto(message))
        self.instructions.append(instruction)
        reply = self.app(instruction, self.contexts[instruction.metadata.dst_node_id])
        return message_from_proto(message_to_proto(reply))

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


@pytest.fixture
def make_grid() -> Callable[[ClientApp, UserConfig, int], FakeGrid]:
    return FakeGrid


@pytest.fixture
def server_context() -> Callable[[UserConfig], Context]:
    """Return a function run_config -> the context of a ServerApp."""

    def make(run_config: UserConfig) -> Context:
        return Context(run_id=7, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=run_config)

    return make
