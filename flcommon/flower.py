"""Every touch of flwr that is not in its public API, in one place; its test fails loudly on a release that differs.

Public and used directly elsewhere: flwr.app, flwr.clientapp, flwr.serverapp. Of flcommon, this module alone imports
flwr, and only flserver and flclient import this module (kept by a test).
"""

from __future__ import annotations

import os

# flwr reads this at import time, and its telemetry would add traffic of its own to the network that is measured.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import copy
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from flcommon.errors import FieldlabError

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.server import ClientManager
    from flwr.serverapp import ServerApp

__all__ = [
    "SERVER_NODE_ID",
    "AppError",
    "Run",
    "app_raised",
    "decode",
    "empty_run",
    "encode",
    "encode_content",
    "encode_head",
    "fresh_server_app",
    "is_key_exchange",
    "load_app",
    "run_id",
    "set_identity",
    "set_message_id",
]

SERVER_NODE_ID: int = SUPERLINK_NODE_ID

App = TypeVar("App", bound="ClientApp | ServerApp")


class AppError(FieldlabError):
    """The Flower app cannot be loaded."""


def run_id(trial: int) -> int:
    """Return the Flower run id of a trial: positive, also for the warm-up (-1)."""
    return trial + 2


def set_identity(run_id: int, node_id: int) -> None:
    """Tell flwr who this process is: `Message(...)` takes run and source node from there (flwr ≥ 1.41)."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = run_id


def empty_run(run_id: int) -> Run:
    """Return the `Run` that `Grid.run` has to give."""
    return Run.create_empty(run_id)


def encode(message: Message) -> bytes:
    """Serialize a Flower message to its protobuf bytes."""
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def encode_content(content: RecordDict) -> bytes:
    """Serialize the content alone: joined with `encode_head`, in any order, it is a serialized Message.

    (Protocol Buffers encoding: concatenated messages parse as their merge.) A strategy sends the same content object
    to all clients, so it is encoded once.
    """
    data: bytes = MessageProto(content=recorddict_to_proto(content)).SerializeToString()
    return data


def encode_head(message: Message) -> bytes:
    """Serialize a message without its content."""
    data: bytes = MessageProto(metadata=metadata_to_proto(message.metadata)).SerializeToString()
    return data


def decode(payload: bytes | memoryview) -> Message:
    """Parse the bytes of a Flower message; raises google.protobuf.message.DecodeError on anything else."""
    proto = MessageProto()
    # upb takes any buffer without a copy; its type stub knows bytes only.
    proto.ParseFromString(payload)
    return message_from_proto(proto)


def set_message_id(message: Message, message_id: str) -> None:
    """Give an instruction its id, which flwr leaves to the engine."""
    message.metadata.__dict__["_message_id"] = message_id


def app_raised(instruction: Message, reason: str) -> Message:
    """Return Flower's reply for a ClientApp that raised."""
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=instruction)


def is_key_exchange(instruction: Message) -> bool:
    """Whether this is a step of Flower's secure aggregation (SecAgg, SecAgg+) in which nothing is trained.

    All its steps are of the type `train`; only the one that asks for training brings the model along.
    """
    return RECORD_KEY_CONFIGS in instruction.content.config_records and not instruction.content.array_records


def fresh_server_app(app: ServerApp) -> ServerApp:
    """Return an app for one trial that no earlier trial has changed; raises AppError for one that cannot be fresh.

    An app makes its strategy in `@app.main()` or `server_fn`, anew for each trial. What it handed to `ServerApp(…)` as
    an object (deprecated by Flower) would go into a trial with the last one's weights, moments and clients: a strategy
    is copied, and Flower's own client manager is made anew.
    """
    if app._main is not None or app._server_fn is not None:  # noqa: SLF001 - ServerApp has no way to ask
        return app
    fresh = copy.copy(app)
    fresh._strategy = copy.deepcopy(app._strategy)  # noqa: SLF001
    fresh._client_manager = _fresh_manager(app._client_manager)  # noqa: SLF001
    if app._server is not None:  # noqa: SLF001
        fresh._server = copy.copy(app._server)  # noqa: SLF001
        fresh._server.strategy = copy.deepcopy(app._server.strategy)  # noqa: SLF001
        fresh._server._client_manager = _fresh_manager(app._server._client_manager)  # noqa: SLF001
    return fresh


def _fresh_manager(manager: ClientManager | None) -> Any:  # noqa: ANN401 - as Flower's attributes have it
    """Return a client manager without clients: it holds locks, so a user's own cannot be copied."""
    if manager is None:
        return None
    if type(manager).__name__ != "SimpleClientManager":
        raise AppError(f"a {type(manager).__name__} given to ServerApp(…) outlives its trial: make it in a server_fn")
    return type(manager)()


def load_app(reference: str, kind: type[App], directory: str | None = None) -> App:
    """Import `package.module:attribute`; raises AppError in one sentence if there is no such app of that kind.

    `directory` is where the app lies in the pushed code, if it is a directory: as in Flower's own engine, it comes
    first on sys.path.
    """
    if directory is not None:
        _come_first(Path(__file__).parents[1] / directory)
    module_name, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise AppError(f"{reference}: is not of the form package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise AppError(f"{reference}: cannot be imported: {error}") from error
    app: object = module
    for name in attribute.split("."):
        app = getattr(app, name, None)
    if not isinstance(app, kind):
        raise AppError(f"{reference}: is {type(app).__name__}, not a flwr {kind.__name__}")
    return app


def _come_first(directory: Path) -> None:
    place = str(directory)
    if place not in sys.path:
        sys.path.insert(0, place)
