"""The loud test: every touch of flwr that is not in its public API does what this project takes it to do.

Guards the internals of flwr 1.41 (all of >=1.41,<2 as pyproject.toml allows it): `flwr.common.constant.ErrorCode` and
`SUPERLINK_NODE_ID`, `flwr.common.serde`, `flwr.common.serde_utils`, `flwr.proto.message_pb2` and `recorddict_pb2`,
`flwr.supercore.run.Run`, `flwr.supercore.task_identity.TaskIdentity`, where `Metadata` keeps its message id, what
`ServerApp` and `Server` were given, and `flwr.common.secure_aggregation`'s name for its record (whose own test is
tests/campaign/test_apps.py). When a new release makes it fail, `flcommon.flower` is the one module to change.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.common.typing import Parameters
from flwr.compat.common.recorddict_compat import arrayrecord_to_parameters, parameters_to_arrayrecord
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.server import Server, ServerConfig, SimpleClientManager
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flcommon import flower
from flcommon.errors import FieldlabError

if TYPE_CHECKING:
    from pathlib import Path

METADATA = (
    "run_id",
    "message_id",
    "src_node_id",
    "dst_node_id",
    "reply_to_message_id",
    "group_id",
    "created_at",
    "ttl",
    "message_type",
)


def instruction(content: RecordDict | None = None) -> Message:
    message = Message(content or full_content(), 1001, "train", group_id="4")
    flower.set_message_id(message, "3-17")
    return message


def full_content() -> RecordDict:
    """Return one record of each kind that Flower has."""
    arrays = ArrayRecord([np.arange(6, dtype=np.float32).reshape(2, 3), np.array([], dtype=np.int64)])
    metrics = MetricRecord({"loss": 0.1, "n": 3, "curve": [0.1, 0.2], "counts": [1, 2]})
    config = ConfigRecord({"server-round": 4, "name": "é", "raw": b"\xff\x00", "on": True, "lrs": [0.1]})
    return RecordDict({"arrays": arrays, "metrics": metrics, "config": config})


def same_metadata(one: Message, other: Message) -> bool:
    return all(getattr(one.metadata, name) == getattr(other.metadata, name) for name in METADATA)


def test_the_release_is_one_that_this_was_written_for() -> None:
    """1.41 moved the sender's identity to TaskIdentity: an older flwr cannot work, a flwr 2 has to be looked at."""
    major, minor = map(int, importlib.metadata.version("flwr").split(".")[:2])
    assert (1, 41) <= (major, minor) < (2, 0)


def test_telemetry_is_off_before_flwr_is_imported() -> None:
    """No traffic of flwr's own on the network that is measured."""
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"


def test_the_servers_node_id_is_flowers() -> None:
    """Flower's SuperLink is node 1, and no client gets that id."""
    assert flower.SERVER_NODE_ID == 1


def test_identity_goes_into_new_messages() -> None:
    """A `Message` made in this process carries the run and the node that set_identity said."""
    message = Message(RecordDict(), 1001, "train")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (5, flower.SERVER_NODE_ID)
    assert TaskIdentity.task_id == 5


@pytest.mark.parametrize("trial", [-1, 0, 1, 1000])
def test_run_ids_are_positive_and_differ(trial: int) -> None:
    """Flower reads run id 0 as none; the warm-up is trial -1."""
    assert flower.run_id(trial) > 0
    assert flower.run_id(trial) != flower.run_id(trial + 1)


def test_an_empty_run_has_the_id() -> None:
    """`Grid.run` gives apps a Run with the trial's run id."""
    run = flower.empty_run(9)
    assert isinstance(run, flower.Run)
    assert run.run_id == 9


def again(message: Message) -> Message:
    """Return the message as it arrives at the other end."""
    parts = flower.encode(message)
    return flower.decode(parts.skeleton, parts.segments)


def as_flower_sends(message: Message) -> bytes:
    """Return a message's bytes as Flower's own engines send it, data inside; the same for equal messages."""
    data: bytes = message_to_proto(message).SerializeToString(deterministic=True)
    return data


def test_a_message_comes_back_as_it_was() -> None:
    """Metadata, arrays, metrics and configuration survive the wire."""
    message = instruction()
    received = again(message)
    assert same_metadata(received, message)
    assert received.content == full_content()
    assert not received.has_error()


def test_decode_takes_a_view() -> None:
    """A skeleton is a view into its frame: it is parsed where it is."""
    parts = flower.encode(instruction())
    data = b"frame" + parts.skeleton
    assert flower.decode(memoryview(data)[5:], parts.segments).content == full_content()


def test_the_skeleton_is_flowers_message_without_the_arrays_data() -> None:
    """Put back into the parsed skeleton, the segments make the protobuf Message that Flower itself would send."""
    message = instruction()
    parts = flower.encode(message)
    proto = MessageProto.FromString(parts.skeleton)
    values = [one.value for item in proto.content.items for one in item.array_record.items]
    assert [value.data for value in values] == [b""] * len(parts.segments)
    for value, segment in zip(values, parts.segments, strict=True):
        value.data = segment
    assert proto == message_to_proto(message)


def test_no_array_is_copied() -> None:
    """The segments are the app's own bytes objects, and the received arrays hold the very segments."""
    message = instruction()
    sent = [array.data for array in message.content.array_records["arrays"].values()]
    parts = flower.encode(message)
    assert all(segment is data for segment, data in zip(parts.segments, sent, strict=True))
    received = flower.decode(parts.skeleton, parts.segments).content.array_records["arrays"].values()
    assert all(array.data is segment for array, segment in zip(received, parts.segments, strict=True))
    assert parts.size_bytes == len(parts.skeleton) + sum(map(len, sent))


class Untouchable(Array):
    """An array that nobody may change once it is made."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise AssertionError(f"{name} was set")
        super().__setattr__(name, value)


def test_the_apps_own_objects_are_only_read() -> None:
    """The app still holds what is being sent, in other threads too: no array of it is changed, not for an instant."""
    record = ArrayRecord()
    record["w"] = Untouchable("uint8", (3,), "raw", b"abc")
    content = RecordDict({"arrays": record, "empty": ArrayRecord(), "config": ConfigRecord({"server-round": 1})})
    message = instruction(content)
    before = as_flower_sends(message)
    parts = flower.encode(message)
    assert parts.segments == (b"abc",)
    assert list(content) == ["arrays", "empty", "config"]
    assert content["arrays"] is record
    assert as_flower_sends(message) == before


def test_more_than_protobuf_can_hold() -> None:
    """An array above 2 GB, which Flower's own Message cannot carry, passes as it is: not a byte of it is touched."""
    try:
        data = bytes(2**31 + 8)  # zero pages, which the kernel makes when they are touched: they take no memory
    except MemoryError:
        pytest.skip("no address space for 2 GB")
    record = ArrayRecord()
    record["w"] = Array("uint64", (len(data) // 8,), "raw", data)
    try:
        parts = flower.encode(instruction(RecordDict({"arrays": record})))
        received = flower.decode(parts.skeleton, parts.segments).content.array_records["arrays"]["w"]
    except Exception as error:  # noqa: BLE001 - pytest would print the values at hand, in four characters a byte
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)
    kept, size_bytes = received.data is data, parts.size_bytes
    assert kept
    assert size_bytes - len(data) < 1000


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"arrays": ArrayRecord({"w": Array("uint8", (2**31,), "raw", b"")})}),
        RecordDict({"metrics": MetricRecord({"n": 2**64})}),
    ],
)
def test_what_flower_cannot_describe_is_one_error(content: RecordDict) -> None:
    """Flower's description of a shape has 32 bits an axis, that of a number 64: what is larger is a MessageError."""
    with pytest.raises(flower.MessageError, match="Flower cannot put this into a message: "):
        flower.encode(instruction(content))


@pytest.mark.parametrize("head_first", [True, False])
def test_head_and_content_apart_are_the_message(*, head_first: bool) -> None:
    """The content is encoded once for all clients: joined with a head, in any order, it parses to the same Message."""
    message = instruction()
    content = flower.encode_content(message.content)
    parts = [flower.encode_head(message), content.skeleton]
    joined = flower.decode(b"".join(parts if head_first else reversed(parts)), content.segments)
    assert as_flower_sends(joined) == as_flower_sends(message)


def test_one_content_serves_many_heads() -> None:
    """The same encoded content with two heads is two messages to two nodes, which share nothing but the bytes."""
    content = full_content()
    shared = flower.encode_content(content)
    received = []
    for node in (1001, 1002):
        message = Message(content, node, "train")
        flower.set_message_id(message, f"3-{node}")
        decoded = flower.decode(flower.encode_head(message) + shared.skeleton, shared.segments)
        assert decoded.metadata.dst_node_id == node
        assert decoded.metadata.message_id == f"3-{node}"
        assert decoded.content == content
        received.append(decoded)
    received[0].content.array_records["arrays"]["0"].data = b"other"
    assert received[1].content == content


def test_the_message_id_reaches_the_client_and_the_reply_names_it() -> None:
    """An instruction's id is set by the engine, and Flower puts it into the reply's metadata."""
    message = Message(full_content(), 1001, "train", group_id="4")
    assert message.metadata.message_id == ""
    flower.set_message_id(message, "3-17")
    received = again(message)
    assert received.metadata.message_id == "3-17"
    reply = again(Message(RecordDict(), reply_to=received))
    assert reply.metadata.reply_to_message_id == "3-17"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (1001, flower.SERVER_NODE_ID)
    assert (reply.metadata.run_id, reply.metadata.group_id, reply.metadata.message_type) == (5, "4", "train")


def test_an_app_that_raised_is_flowers_error_reply() -> None:
    """The error reply has Flower's code 2 for it and the reason, and survives the wire."""
    reply = again(flower.app_raised(instruction(), "ValueError: no data"))
    assert reply.has_error()
    assert not reply.has_content()
    assert (reply.error.code, reply.error.reason) == (2, "ValueError: no data")
    assert reply.metadata.reply_to_message_id == "3-17"
    assert reply.metadata.src_node_id == 1001


_numbers = st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_])


@given(array=_numbers.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))))
def test_arrays_are_bit_exact(array: np.ndarray) -> None:
    """Weights arrive as they were sent: bytes, shape and type, NaNs and signed zeros included."""
    message = instruction(RecordDict({"arrays": ArrayRecord({"w": Array(array)})}))
    received = again(message).content.array_records["arrays"]["w"].numpy()
    assert (received.dtype, received.shape) == (array.dtype, array.shape)
    assert received.tobytes() == array.tobytes()


_names = st.text(max_size=8)
_int64 = st.integers(-(2**63), 2**63 - 1)
_values = st.one_of(_int64, st.floats(), st.lists(_int64, max_size=3), st.lists(st.floats(), max_size=3))
_config = st.one_of(
    _values, st.booleans(), st.text(), st.binary(), st.lists(st.text(), max_size=3), st.lists(st.booleans(), max_size=3)
)
_shape = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)
_array = st.builds(Array, st.just("uint8"), _shape.map(tuple), _names, st.binary(max_size=40))
_record = st.one_of(
    st.dictionaries(_names, _array, max_size=4).map(ArrayRecord),
    st.dictionaries(_names, _values, max_size=4).map(MetricRecord),
    st.dictionaries(_names, _config, max_size=4).map(ConfigRecord),
)
_content = st.dictionaries(_names, _record, max_size=5).map(RecordDict)


@st.composite
def _messages(draw: st.DrawFn) -> Message:
    """Make instructions, replies, and error replies, with all that their metadata can hold."""
    ttl = draw(st.floats(1, 1e9))
    kind = draw(st.sampled_from(["train", "evaluate", "query", "train.other"]))
    message = Message(draw(_content), draw(st.integers(1, 2**63)), kind, ttl=ttl, group_id=draw(_names))
    flower.set_message_id(message, draw(_names))
    if draw(st.booleans()):
        return message
    if draw(st.booleans()):
        return Message(draw(_content), reply_to=message)
    return flower.app_raised(message, draw(st.text(min_size=1)))


@given(message=_messages())
def test_what_arrives_is_what_flowers_own_serialization_would_bring(message: Message) -> None:
    """Bit for bit, with the order of records and of arrays: ours and Flower's give the same message."""
    flowers = message_from_proto(MessageProto.FromString(message_to_proto(message).SerializeToString()))
    ours = again(message)
    assert as_flower_sends(ours) == as_flower_sends(flowers)
    assert ours.has_error() == flowers.has_error()
    if not ours.has_error():
        assert [*ours.content] == [*flowers.content]
        pairs = zip(ours.content.values(), flowers.content.values(), strict=True)
        assert all([*one] == [*other] for one, other in pairs)


@given(tensors=st.lists(st.binary(max_size=20), max_size=4), kind=_names)
def test_legacy_parameters_pass(tensors: list[bytes], kind: str) -> None:
    """What `client_fn` apps exchange (Flower's Parameters in an ArrayRecord, none at all included) stays as it is."""
    record = parameters_to_arrayrecord(Parameters(tensors, kind), keep_input=True)
    received = again(instruction(RecordDict({"fitins.parameters": record}))).content.array_records["fitins.parameters"]
    back = arrayrecord_to_parameters(received, keep_input=True)
    assert back.tensors == tensors
    assert back.tensor_type == kind


@pytest.mark.parametrize("skeleton", [b"\xff" * 10, b"\x0a\xff", b"garbage that is no message", b""])
def test_garbage_is_no_message(skeleton: bytes) -> None:
    """Bytes that are no Message are one error, which the streams turn into a reason."""
    with pytest.raises(flower.MessageError, match="not a Flower message"):
        flower.decode(skeleton)


@given(data=st.data())
def test_a_damaged_skeleton_is_a_message_or_one_error(data: st.DataObject) -> None:
    """Whatever a peer sends, decode raises nothing but MessageError."""
    parts = flower.encode(instruction())
    damaged = bytearray(parts.skeleton)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([len(damaged), data.draw(st.integers(0, len(damaged)))]))
    with suppress(flower.MessageError):
        assert isinstance(flower.decode(bytes(damaged[:end]), parts.segments), Message)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_array_needs_its_segment(count: int) -> None:
    """A skeleton of two arrays with the bytes of fewer or more is an error that names both numbers."""
    skeleton = flower.encode(instruction()).skeleton
    with pytest.raises(flower.MessageError, match=f"of 2 arrays came with the bytes of {count}$"):
        flower.decode(skeleton, [b"x"] * count)


def test_records_of_one_name_are_one() -> None:
    """Only a forged skeleton names a record twice: the last one counts, as in Flower, whatever its kind."""
    arrays, metrics = ({"r": ArrayRecord({"w": Array("u1", (), "raw", b"x")})}, {"r": MetricRecord({"n": 1})})
    first, last = (flower.encode_content(RecordDict(one)) for one in (arrays, metrics))
    head = flower.encode_head(instruction())
    assert flower.decode(head + first.skeleton + last.skeleton).content == RecordDict(metrics)
    assert flower.decode(head + last.skeleton + first.skeleton, [b"x"]).content == RecordDict(arrays)


def test_a_large_message_is_let_go() -> None:
    """A view of a content is a cycle in flwr: a collection after a large message ends it, and a small one has none."""
    content = full_content()
    assert content.array_records
    held = weakref.ref(content)
    gc.disable()
    try:
        del content
        flower.let_go(flower.LARGE_BYTES - 1)
        assert held() is not None
        flower.let_go(flower.LARGE_BYTES)
        assert held() is None
    finally:
        gc.enable()


def test_what_is_settled_is_looked_at_no_more() -> None:
    """A collection after `settle` passes over what was there before."""
    try:
        flower.settle()
        assert gc.get_freeze_count() > 1000
        assert len(gc.get_objects()) < gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_a_context_can_be_made_as_the_engine_makes_it() -> None:
    """`Context` is public; its keywords are those that campaign and session use."""
    context = Context(run_id=5, node_id=1001, node_config={"p": 1}, state=RecordDict(), run_config={"lr": 0.1})
    assert context.run_config["lr"] == 0.1


# --- load_app ---------------------------------------------------------------------------------------------------------


def test_an_app_is_found_by_its_reference() -> None:
    """`package.module:attribute`, as in a Flower pyproject.toml."""
    assert isinstance(flower.load_app("flclient.apps.payload.client_app:app", ClientApp), ClientApp)
    assert isinstance(flower.load_app("flclient.apps.payload.server_app:app", ServerApp), ServerApp)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no.such.module:app", "cannot be imported: No module named 'no'"),
        ("flclient.apps.payload.client_app:nothing", "is NoneType, not a flwr ClientApp"),
        ("flclient.apps.payload.client_app", "is NoneType, not a flwr ClientApp"),
        ("flclient.apps.payload.client_app:train", "is function, not a flwr ClientApp"),
        ("flclient.apps.payload.server_app:app", "is ServerApp, not a flwr ClientApp"),
        (":app", "is not of the form package.module:attribute"),
        (".client_app:app", "is not of the form package.module:attribute"),
        ("apps/client_app.py:app", "is not of the form package.module:attribute"),
        ("", "is not of the form package.module:attribute"),
    ],
)
def test_what_is_no_app_is_one_sentence(reference: str, reason: str) -> None:
    """A reference that leads nowhere, or to something else, is an AppError that repeats it."""
    with pytest.raises(flower.AppError) as caught:
        flower.load_app(reference, ClientApp)
    assert str(caught.value) == f"{reference}: {reason}"
    assert isinstance(caught.value, FieldlabError)


def test_a_missing_dependency_of_an_app_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app whose own import fails says which module it misses."""
    (tmp_path / "app_with_a_wish.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(flower.AppError, match="a_library_nobody_has"):
        flower.load_app("app_with_a_wish:app", ClientApp)


def test_a_bug_in_an_app_keeps_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app raises while it is imported is the user's to see, traceback and all."""
    (tmp_path / "app_with_a_bug.py").write_text("raise ValueError('mine')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="mine"):
        flower.load_app("app_with_a_bug:app", ClientApp)


def test_an_app_in_a_directory_comes_first_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own modules are found by their plain names, before others of that name, as in Flower's engine."""
    for place, said in (("app", "its own"), ("elsewhere", "another's")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "task_of_a_test.py").write_text(f"WHOSE = {said!r}\n")
    text = (
        "from flwr.clientapp import ClientApp\nfrom task_of_a_test import WHOSE\napp = ClientApp()\napp.whose = WHOSE\n"
    )
    (tmp_path / "app" / "client_app_of_a_test.py").write_text(text)
    monkeypatch.setattr(flower, "__file__", str(tmp_path / "flcommon" / "flower.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere"), *sys.path])
    for _ in range(2):
        assert flower.load_app("client_app_of_a_test:app", ClientApp, "app").whose == "its own"
    assert sys.path.count(str(tmp_path / "app")) == 1
    assert sys.path[0] == str(tmp_path / "app")


def test_an_attribute_may_have_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:wrapper.app` is a reference that Flower allows."""
    text = "from flwr.clientapp import ClientApp\nclass wrapper:\n    app = ClientApp()\n"
    (tmp_path / "app_in_a_wrapper.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(flower.load_app("app_in_a_wrapper:wrapper.app", ClientApp), ClientApp)
    with pytest.raises(flower.AppError, match="is NoneType, not a flwr ClientApp"):
        flower.load_app("app_in_a_wrapper:wrapper.other.app", ClientApp)


# --- fresh_server_app -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_strategy_given_as_an_object_is_fresh_in_every_trial() -> None:
    """FedAvg drops its initial parameters once used, FedAdam keeps moments: neither goes into a second trial."""
    strategy = LegacyFedAvg(initial_parameters=ndarrays_to_parameters([np.ones(2)]))
    app = ServerApp(strategy=strategy, config=ServerConfig(num_rounds=1))
    for _ in range(2):
        fresh = flower.fresh_server_app(app)
        assert fresh._strategy is not strategy
        assert fresh._strategy.initialize_parameters(SimpleClientManager()) is not None
    assert strategy.initial_parameters is not None


def test_an_app_that_makes_its_strategy_itself_is_the_same_one() -> None:
    """`@app.main()` and `server_fn` run anew for each trial."""
    by_function, by_main = ServerApp(server_fn=lambda _: None), ServerApp()
    by_main.main()(lambda grid, context: None)  # noqa: ARG005 - Flower's signature
    assert flower.fresh_server_app(by_function) is by_function
    assert flower.fresh_server_app(by_main) is by_main


def test_a_server_given_as_an_object_has_a_client_manager_of_its_own_in_every_trial() -> None:
    """A ClientManager that has met the clients once refuses them in a second trial."""
    manager = SimpleClientManager()
    server = Server(client_manager=manager, strategy=LegacyFedAvg())
    fresh = flower.fresh_server_app(ServerApp(server=server))
    assert fresh._server is not server
    assert fresh._server.client_manager() is not manager
    assert fresh._server.strategy is not server.strategy
    assert flower.fresh_server_app(ServerApp(client_manager=manager))._client_manager is not manager


def test_what_cannot_be_fresh_is_refused() -> None:
    """A client manager of the user's own may need arguments, and holds locks."""

    class OfMyOwn(SimpleClientManager):
        pass

    with pytest.raises(flower.AppError, match=r"a OfMyOwn given to .* make it in a server_fn"):
        flower.fresh_server_app(ServerApp(client_manager=OfMyOwn()))
