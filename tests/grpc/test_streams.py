"""Joining and leaving: who may, who may not, and that everybody is told why."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
import pytest
from flwr.clientapp import ClientApp

from flclient.connection import ConnectionFailed
from flclient.session import take_part
from flcommon import wire
from flcommon.events import ClientJoined, ClientLeft, Refused
from flcommon.job import Transport
from flserver.errors import ServerError
from flserver.grid import GrpcGrid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG_S = 20.0
CALM = Transport(keepalive_s=60.0, clock_every_s=0.0)


# --- joining ----------------------------------------------------------------------------------------------------------


def test_a_client_is_welcomed_with_its_node_id(lab: Any) -> None:
    """Its name, id and address are in the log, in the order of joining."""
    lab.join("b")
    lab.join("a")
    lab.grid.roster.wait_joined(LONG_S)
    joined = lab.events(ClientJoined)
    assert [(event.client, event.node_id) for event in joined] == [("b", 1002), ("a", 1001)]
    assert all("127.0.0.1" in event.peer for event in joined)


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (lambda hand: hand.hello("a", session="s2"), "a is connected already"),
        (lambda hand: hand.hello("zoe"), "zoe is not a client of this campaign"),
        (lambda hand: hand.hello("b", campaign="c2"), "b speaks campaign c2, this server c1"),
        (lambda hand: hand.hello("b", protocol=99), f"b speaks protocol 99, this server {wire.PROTOCOL}"),
        (lambda hand: hand.say(wire.Prepared(0)), "the first frame is not a hello"),
        (lambda hand: hand.say_bytes(b"garbage"), "a frame shorter than its header"),
        (lambda hand: hand.say_bytes(b""), "a frame shorter than its header"),
        (lambda hand: hand.say_bytes(b"\x00\x00\x00\x04\x81\xa1\xff\x01"), "a frame that cannot be read: "),
    ],
    ids=["duplicate", "unknown", "campaign", "protocol", "no hello", "garbage", "empty", "not UTF-8"],
)
def test_who_may_not_join_is_told_why(lab: Any, say: Callable[[Any], None], reason: str) -> None:
    """The stranger hears one refusal and its stream ends; the log says so, and the campaign goes on."""
    lab.join("a")
    stranger = lab.hand()
    say(stranger)
    (refusal,) = stranger.hear_rest()
    assert isinstance(refusal, wire.Refusal)
    assert refusal.reason.startswith(reason)
    assert refusal.again == (reason == "a is connected already")
    (refused,) = lab.events(Refused)
    assert refused.reason == refusal.reason
    assert "127.0.0.1" in refused.peer
    lab.join("b")
    lab.grid.roster.wait_joined(LONG_S)
    assert [event.client for event in lab.events(ClientJoined)] == ["a", "b"]
    assert lab.events(ClientLeft) == []


def test_strangers_that_leave_without_a_word_harm_nobody(lab: Any) -> None:
    """A port scan ends no campaign, and takes no client's place."""
    for _ in range(5):
        lab.hand().hang_up()
    lab.join_all()
    lab.grid.roster.wait_joined(LONG_S)


def test_another_method_is_refused(lab: Any) -> None:
    """The server speaks one method; another gRPC client learns so from gRPC itself."""
    with grpc.insecure_channel(lab.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/fieldlab.Experiment/Other")(b"", timeout=LONG_S)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_who_is_missing_is_named(lab: Any) -> None:
    """After the time-out the error lists those who did not connect, and only those."""
    lab.join("a")
    with pytest.raises(ServerError, match=r"^join: b did not connect within 0\.05 s$") as caught:
        lab.grid.roster.wait_joined(0.05)
    assert caught.value.step == "join"


def test_who_is_not_prepared_is_named(lab: Any) -> None:
    """Being prepared for one trial is not being prepared for another."""
    a, b = lab.join_all()
    for hand, trial in ((a, 0), (a, 1), (b, 0)):
        hand.say(wire.Prepared(trial))
    lab.grid.roster.wait_prepared(0, LONG_S)
    with pytest.raises(ServerError, match=r"^prepare trial: a, b not prepared within 0\.05 s$"):
        lab.grid.roster.wait_prepared(2, 0.05)


def test_waiting_ends_with_the_last_one(lab: Any) -> None:
    """wait_joined and wait_prepared have no time-out here: only the last client can have ended them."""
    joined = lab.call(lab.grid.roster.wait_joined, None)
    a = lab.join("a")
    assert not joined.done()
    b = lab.join("b")
    joined.result(LONG_S)
    prepared = lab.call(lab.grid.roster.wait_prepared, 0, None)
    b.say(wire.Prepared(0))
    assert not prepared.done()
    a.say(wire.Prepared(0))
    prepared.result(LONG_S)


# --- listening --------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[str]:
    """Return an address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def listen(lab: Any, address: str) -> None:
    """Listen as another campaign's server would."""
    grid = GrpcGrid("c2", ("a",), lab.log)
    try:
        grid.streams.listen(address)
    finally:
        grid.streams.close()


def test_a_port_in_use_is_an_error(lab: Any, taken: str) -> None:
    """Somebody else's port, and that of another campaign: two servers must not share the clients."""
    for address in (taken, lab.address):
        with pytest.raises(ServerError, match=f"cannot listen on {address}") as caught:
            listen(lab, address)
        assert caught.value.step == "listen"


def test_an_address_of_another_host_is_an_error(lab: Any) -> None:
    """192.0.2.0/24 is for documentation: no host has it."""
    with pytest.raises(ServerError, match=r"192\.0\.2\.1:0"):
        listen(lab, "192.0.2.1:0")


def test_port_0_takes_a_free_one(lab: Any) -> None:
    """The address that is returned has the port that was taken."""
    host, _, port = lab.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_goodbye_ends_the_clients_regularly(lab: Any) -> None:
    """Each hears the goodbye last, its stream ends without an error, and the log says that it was expected.

    Nobody read during the close: a client that is busy training finds the goodbye when it comes back to its stream.
    """
    hands = lab.join_all()
    lab.grid.roster.open_trial(0)
    lab.grid.streams.close()
    for hand in hands:
        assert hand.hear_rest() == [wire.OpenTrial(0), wire.Goodbye(None)]
    assert sorted(event.client for event in lab.events(ClientLeft)) == ["a", "b"]
    assert lab.grid.get_node_ids() == [1001, 1002]


def test_goodbye_carries_the_reason(lab: Any) -> None:
    """When the campaign ends early, every client's own log can say why."""
    hands = lab.join_all()
    lab.grid.streams.close("run: c is gone")
    for hand in hands:
        assert hand.hear_rest() == [wire.Goodbye("run: c is gone")]


def test_nobody_can_join_after_the_end(lab: Any) -> None:
    """The port is closed with the campaign."""
    lab.grid.streams.close()
    job = msgspec.structs.replace(lab.job("a"), connect_timeout_s=0.2)
    with pytest.raises(
        ConnectionFailed, match=rf"no answer from the server at {lab.address} within 0\.2 s \("
    ) as caught:
        take_part(job, ClientApp(), lab.log)
    assert caught.value.step == "connect"
    assert "onnection refused" in str(caught.value)


def test_a_server_that_dies_is_an_error_on_the_client(lab: Any) -> None:
    """A stream that breaks is not a goodbye: the client tries again, for as long as the job says, and says why."""
    job = lab.job("a", transport=msgspec.structs.replace(CALM, rejoin_timeout_s=0.2))
    running = lab.call(take_part, job, ClientApp(), lab.log)
    lab.join("b")
    lab.grid.roster.wait_joined(LONG_S)
    lab.grid.streams._server.stop(0).wait(LONG_S)
    failure = running.exception(LONG_S)
    assert isinstance(failure, ConnectionFailed)
    assert failure.step == "run"
    assert str(failure).startswith(f"run: no answer from the server at {lab.address} within 0.4 s (")


def test_sessions_end_with_the_goodbye(lab: Any) -> None:
    """Real sessions return on a regular goodbye."""
    sessions = [lab.session(name, ClientApp(), lab.log) for name in lab.clients]
    lab.grid.roster.wait_joined(LONG_S)
    lab.grid.streams.close()
    assert [session.result(LONG_S) for session in sessions] == [None, None]


def test_a_session_says_why_the_server_ended_it(lab: Any) -> None:
    """On a goodbye with a reason the session raises with that reason."""
    sessions = [lab.session(name, ClientApp(), lab.log) for name in lab.clients]
    lab.grid.roster.wait_joined(LONG_S)
    lab.grid.streams.close("stopped from outside")
    for session in sessions:
        with pytest.raises(ConnectionFailed, match="the server ended the campaign: stopped from outside"):
            session.result(LONG_S)


def test_a_refused_session_says_why(lab: Any) -> None:
    """A client of another campaign ends with the server's reason."""
    with pytest.raises(ConnectionFailed, match="zoe is not a client of this campaign"):
        lab.session("zoe", ClientApp(), lab.log).result(LONG_S)
