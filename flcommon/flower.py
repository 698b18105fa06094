"""Every touch of flwr that is not in its public API, in one place; its test fails loudly on a release that differs.

Public and used directly elsewhere: flwr.app, flwr.clientapp, flwr.serverapp. Of flcommon, this module alone imports
flwr, and only flserver and flclient import this module (kept by a test).
"""

from __future__ import annotations

import os

# flwr reads this at import time, and its telemetry would add traffic of its own to the network that is measured.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import copy
import gc
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.common.serde import message_from_proto, recorddict_to_proto
from flwr.common.serde_utils import error_to_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import Array as ArrayProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import Error as ProtobufError  # type: ignore[import-untyped]

from flcommon.errors import FieldlabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flwr.app import ConfigRecord, MetricRecord
    from flwr.clientapp import ClientApp
    from flwr.server import ClientManager
    from flwr.serverapp import ServerApp

__all__ = [
    "SERVER_NODE_ID",
    "AppError",
    "MessageError",
    "Parts",
    "Run",
    "app_raised",
    "decode",
    "empty_run",
    "encode",
    "encode_content",
    "encode_head",
    "expired",
    "fresh_server_app",
    "is_key_exchange",
    "let_go",
    "load_app",
    "run_id",
    "set_identity",
    "set_message_id",
    "settle",
    "unavailable",
]

SERVER_NODE_ID: int = SUPERLINK_NODE_ID
LARGE_BYTES = 16 << 20
"""From here on a message is worth a garbage collection."""

App = TypeVar("App", bound="ClientApp | ServerApp")


class AppError(FieldlabError):
    """The Flower app cannot be loaded."""


class MessageError(FieldlabError):
    """Bytes that are no Flower message, or a Flower message that cannot be encoded."""


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


@dataclass(frozen=True, slots=True)
class Parts:
    """An encoded message: a small `skeleton`, and the bytes of its arrays, in order, as the app made them.

    The skeleton is Flower's own protobuf Message with the data of every Array left out: protobuf ends at 2 GB, and
    copies all data at each step.
    """

    skeleton: bytes
    segments: tuple[bytes, ...] = ()

    @property
    def size_bytes(self) -> int:
        """What the parts take together."""
        return len(self.skeleton) + sum(map(len, self.segments))


def encode(message: Message) -> Parts:
    """Encode a message, with its content or its error; copies no array. Raises MessageError."""
    head = encode_head(message)
    if not message.has_content():
        return Parts(head)
    content = encode_content(message.content)
    return Parts(head + content.skeleton, content.segments)


def encode_content(content: RecordDict) -> Parts:
    """Encode the content alone: its skeleton joined with `encode_head`, in any order, is a message's skeleton.

    (Protocol Buffers encoding: concatenated messages parse as their merge.) A strategy sends the same content object
    to all clients, so it is encoded once. The content is only read: the app still holds it, in other threads too.
    """
    segments: list[bytes] = []
    try:
        proto = MessageProto(content=_without_data(dict(content), segments))
    except (TypeError, ValueError, ProtobufError) as error:  # numbers above 64 bits, axes above 2³¹, texts above 2 GB
        raise MessageError(f"Flower cannot put this into a message: {error}") from error
    return Parts(_serialized(proto), tuple(segments))


def _without_data(records: dict[str, ArrayRecord | MetricRecord | ConfigRecord], data: list[bytes]) -> RecordDictProto:
    """Return the records as Flower describes them, their arrays' data left out and appended to `data`."""
    bare = {key: ArrayRecord() if isinstance(record, ArrayRecord) else record for key, record in records.items()}
    proto = recorddict_to_proto(RecordDict(bare))
    for item in proto.items:
        record = records[item.key]
        if not isinstance(record, ArrayRecord):
            continue
        for name, array in record.items():
            data.append(bytes(array.data))  # `bytes` of bytes is the same object
            described = ArrayProto(dtype=array.dtype, shape=array.shape, stype=array.stype)
            item.array_record.items.add(key=name, value=described)
    return proto


def encode_head(message: Message) -> bytes:
    """Encode a message without its content: what goes to one client only."""
    error = error_to_proto(message.error) if message.has_error() else None
    return _serialized(MessageProto(metadata=metadata_to_proto(message.metadata), error=error))


def decode(skeleton: bytes | memoryview, segments: Sequence[bytes] = ()) -> Message:
    """Put a message together from its parts; its arrays hold the very segments. Raises MessageError on anything else.

    Skeletons come from the network, so they may be any bytes.
    """
    proto = MessageProto()
    try:
        # upb takes any buffer without a copy; its type stub knows bytes only.
        proto.ParseFromString(skeleton)
        bare = _take_arrays(proto)
        message = message_from_proto(proto)
    except Exception as error:  # flwr takes its input for its own, and stumbles over other bytes in many ways
        raise MessageError(f"not a Flower message: {error or type(error).__name__}") from error
    count = sum(len(arrays) for arrays in bare.values())
    if count != len(segments):
        raise MessageError(f"a Flower message of {count} arrays came with the bytes of {len(segments)}")
    rest = iter(segments)
    for key, arrays in bare.items():
        record = cast("ArrayRecord", message.content[key])
        for name, array in arrays.items():
            record[name] = Array(array.dtype, tuple(array.shape), array.stype, next(rest))
    return message


def _take_arrays(proto: MessageProto) -> dict[str, dict[str, ArrayProto]]:
    """Move the arrays out of the message, so that flwr does not build each of them, and twice, without its data."""
    taken: dict[str, dict[str, ArrayProto]] = {}
    for item in proto.content.items:
        taken.pop(item.key, None)  # of two with the same name the last one counts, as flwr reads them
        if item.HasField("array_record"):
            taken[item.key] = {one.key: one.value for one in item.array_record.items}
            item.array_record.ClearField("items")
    return taken


def _serialized(proto: MessageProto) -> bytes:
    try:
        data: bytes = proto.SerializeToString()
    except ProtobufError as error:
        # Only configuration is left that could be so long.
        raise MessageError("a Flower message without its arrays must stay below 2 GB") from error
    return data


def settle() -> None:
    """Let garbage collections leave out what is there now: all that the app imports (95 ms each time, with torch)."""
    gc.collect()
    gc.freeze()


def let_go(size_bytes: int) -> None:
    """Collect garbage if messages of so many bytes, which nobody needs any more, are worth it.

    flwr's views of a content, which apps and Flower's own strategies use (`content.array_records`, flwr 1.42), are
    reference cycles that hold it, arrays and all: without this several rounds' messages add up.
    """
    if size_bytes >= LARGE_BYTES:
        gc.collect()


def set_message_id(message: Message, message_id: str) -> None:
    """Give an instruction its id, which flwr leaves to the engine."""
    message.metadata.__dict__["_message_id"] = message_id


def app_raised(instruction: Message, reason: str) -> Message:
    """Return Flower's reply for a ClientApp that raised."""
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=instruction)


def expired(instruction: Message) -> Message:
    """Return Flower's reply for an instruction that was not answered within its time to live."""
    reason = f"no reply within the message's time to live of {instruction.metadata.ttl:g} s"
    return Message(Error(code=ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason=reason), reply_to=instruction)


def unavailable(instruction: Message, reason: str) -> Message:
    """Return Flower's reply for a node that is gone."""
    return Message(Error(code=ErrorCode.NODE_UNAVAILABLE, reason=reason), reply_to=instruction)


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
