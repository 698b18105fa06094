"""Mutual TLS over real gRPC: who is let in and as whom, who is not, and what both sides then say."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import msgspec
import pytest
from cryptography import x509

from deploy.authority import Authority, server_name
from flclient.credentials import channel_credentials, channel_options, why_refused
from flcommon.credentials import certificate_request
from flcommon.errors import StepError
from flcommon.eventlog import read_log
from flcommon.job import Tls, Transport
from flserver.credentials import peer_name, server_credentials
from flserver.streams import server_options

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_S = 20.0
PATIENCE = "grpc.server_handshake_timeout_ms"
ADDRESS = "127.0.0.1:0"
SERVER_OPTIONS = tuple(server_options(Transport(), 64))


@dataclass
class Lab:
    """The hosts of a lab, each with a key in a directory of its own, and authorities to sign for them."""

    place: Path
    authority: Authority = field(default_factory=lambda: Authority("c1"))

    def server(self, address: str = ADDRESS, **changed: object) -> Tls:
        """Return the server's part, for an inventory with this server address."""
        return self.tls("hub", name=server_name(address), is_server=True, **changed)

    def client(self, host: str = "pi-a", address: str = ADDRESS, **changed: object) -> Tls:
        return self.tls(host, name=server_name(address), is_server=False, **changed)

    def tls(self, host: str, *, name: str, is_server: bool, signer: Authority | None = None, days: float = 0) -> Tls:
        """Return a host's part: signed by another authority than it trusts, or so many days later than now."""
        signer = signer or self.authority
        request = certificate_request(self.place / host)
        with shifted(signer, days):
            certificate = signer.sign(host, request, name if is_server else None)
        return Tls(
            key=str(self.place / host / "host.key"),
            certificate=certificate,
            authority=self.authority.certificate,
            server_name=name,
        )


@contextmanager
def shifted(authority: Authority, days: float) -> Iterator[None]:
    """Let an authority sign as if it were that many days later."""
    before = authority._valid
    authority._valid = tuple(end + days * (before[1] - before[0]) / 15 for end in before)
    yield
    authority._valid = before


@dataclass
class Echo(grpc.GenericRpcHandler):
    """A server that says who it takes its caller for, and remembers whom it has served."""

    served: list[str | None] = field(default_factory=list)

    def service(self, _details: object) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        self.served.append(peer_name(context))
        return msgspec.json.encode(self.served[-1])


@contextmanager
def serving(tls: Tls | None, bind: str = ADDRESS, options: tuple = SERVER_OPTIONS) -> Iterator[tuple[str, Echo]]:
    echo = Echo()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[echo], options=options)
        port = server.add_insecure_port(bind) if tls is None else server.add_secure_port(bind, server_credentials(tls))
        server.start()
        yield f"{bind.rpartition(':')[0]}:{port}", echo
        server.stop(0).wait()


@contextmanager
def channel(address: str, tls: Tls | None) -> Iterator[grpc.Channel]:
    options = (("grpc.enable_http_proxy", 0), *(channel_options(tls) if tls else ()))
    with (
        grpc.secure_channel(address, channel_credentials(tls), options)
        if tls
        else grpc.insecure_channel(address, options)
    ) as opened:
        yield opened


def ask(address: str, tls: Tls | None) -> str | None:
    """Return whom the server takes the caller for."""
    with channel(address, tls) as opened:
        return msgspec.json.decode(opened.unary_unary("/lab/who")(b"", timeout=LONG_S))


def refusal(address: str, tls: Tls | None) -> str:
    """Return gRPC's details of a call that must fail because there is no connection."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(address, tls)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value.details()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


# --- who is let in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "bind"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("[::1]:0", "[::1]:0"),
        ("[0:0:0:0::1]:0", "[::1]:0"),
        ("[2001:DB8::00:1]:0", "127.0.0.1:0"),
        ("[::ffff:192.0.2.1]:0", "127.0.0.1:0"),
        ("hub.local:0", "127.0.0.1:0"),
        ("Hub.Local.:0", "127.0.0.1:0"),
        ("my_hub:0", "127.0.0.1:0"),
    ],
)
def test_a_client_of_the_campaign_is_let_in_and_named(lab, address, bind):
    """Whatever form the server's address has, and also where a relay's address is dialled instead of it."""
    with serving(lab.server(address), bind) as (at, _):
        assert ask(at, lab.client("pi4-a.lab_1", address)) == "pi4-a.lab_1"


def test_a_host_cannot_pose_as_another(lab):
    """Two clients in one campaign: each is who its key says, and another's certificate is of no use without its key."""
    with serving(lab.server()) as (at, echo):
        assert [ask(at, lab.client(name)) for name in ("pi-a", "pi-b", "pi-a")] == ["pi-a", "pi-b", "pi-a"]
        stolen = msgspec.structs.replace(lab.client("pi-b"), key=lab.client("pi-a").key)
        with pytest.raises(StepError, match=r"^tls: the private key .*/pi-a/host\.key is another than"):
            ask(at, stolen)
        assert len(echo.served) == 3


def test_grpc_itself_refuses_anothers_certificate_without_its_key(lab):
    """A peer that does not run our code gains nothing by skipping our own check."""
    mine, other = lab.client("pi-a"), lab.client("pi-b")
    credentials = grpc.ssl_channel_credentials(
        mine.authority.encode(), Path(mine.key).read_bytes(), other.certificate.encode()
    )
    with serving(lab.server()) as (at, echo):
        with (
            grpc.secure_channel(at, credentials, channel_options(mine)) as opened,
            pytest.raises(grpc.RpcError),
        ):
            opened.unary_unary("/lab/who")(b"", timeout=LONG_S)
        assert echo.served == []


def test_without_tls_nobody_is_named():
    """None, so that a caller cannot take it for a name."""
    with serving(None) as (at, _):
        assert ask(at, None) is None


def test_a_certificate_that_names_no_client_is_nobodys(lab, monkeypatch):
    """It cannot be one of ours; it gives a name that no host can have."""
    monkeypatch.setattr("deploy.authority._client_uri", lambda _campaign, host: x509.DNSName(host))
    with serving(lab.server()) as (at, _):
        assert ask(at, lab.client()) == ""


# --- who is not ------------------------------------------------------------------------------------------------------


def anonymous(lab: Lab) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(lab.authority.certificate.encode())


REFUSED = {
    "another campaign's": lambda lab: lab.client(signer=Authority("c2")),
    "another authority of that name": lambda lab: lab.client(signer=Authority("c1")),
    "expired": lambda lab: lab.client(days=-20),
    "not valid yet": lambda lab: lab.client(days=20),
    "the server's own": lambda lab: lab.server(),
    "no TLS": lambda _lab: None,
}


@pytest.mark.parametrize("peer", REFUSED.values(), ids=REFUSED)
def test_who_is_not_a_client_of_the_campaign_is_not_served(lab, peer):
    """Not one call reaches Python, and clients of the campaign are served before and after."""
    with serving(lab.server()) as (at, echo):
        assert ask(at, lab.client()) == "pi-a"
        refusal(at, peer(lab))
        assert ask(at, lab.client()) == "pi-a"
        assert echo.served == ["pi-a", "pi-a"]


def test_who_shows_no_certificate_is_not_served(lab):
    """Though it trusts the right server."""
    with serving(lab.server()) as (at, echo):
        with grpc.secure_channel(at, anonymous(lab)) as opened, pytest.raises(grpc.RpcError):
            opened.unary_unary("/lab/who")(b"", timeout=LONG_S)
        assert echo.served == []


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (REFUSED["expired"], r"closed the connection, and this host's certificate was valid until 20..-.*"),
        (REFUSED["not valid yet"], r"closed the connection, and this host's certificate is valid from 20..-"),
        (REFUSED["another campaign's"], r"closed the connection at once: it is ending, or refuses this host"),
        (REFUSED["no TLS"], r"closed the connection at once: it may want TLS$"),
    ],
)  # fmt: skip
def test_a_refused_client_says_why_as_far_as_it_can_know(lab, peer, words):
    """One sentence: a server does not say why it refuses, but a certificate's dates are known to who holds it."""
    with serving(lab.server()) as (at, _):
        tls = peer(lab)
        told = why_refused(refusal(at, tls), tls)
    assert re.search(words, told), told


IMPOSTORS = {
    "a client of the campaign": (lambda lab: lab.client("pi-b"), "has a client's certificate, and is not the server"),
    "another campaign's server": (
        lambda lab: lab.server(signer=Authority("c2")), "the server's certificate is not of this campaign",
    ),
    "a server elsewhere": (
        lambda lab: lab.server("192.0.2.99:0"), r"the server's certificate is not for 127\.0\.0\.1, where it should be",
    ),
    "the server of long ago": (lambda lab: lab.server(days=-20), "certificate has expired by this host's clock"),
    "a server without TLS": (lambda _lab: None, "does not speak TLS: it is not this campaign's server"),
}  # fmt: skip


@pytest.mark.parametrize(("server", "words"), IMPOSTORS.values(), ids=IMPOSTORS)
def test_a_client_does_not_talk_to_an_impostor(lab, server, words):
    """It says in one sentence what is wrong with what it met, and the impostor never hears a call."""
    with serving(server(lab)) as (at, echo):
        told = why_refused(refusal(at, lab.client()), lab.client())
        assert re.search(words, told), told
        assert "\n" not in told
        assert echo.served == []


def test_a_network_that_fails_is_no_matter_of_trust(lab):
    """Nobody listens, or nobody answers: other sentences are for that."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    details = refusal(at, lab.client())
    assert why_refused(details, lab.client()) is None
    assert why_refused(details, None) is None


def test_a_key_that_cannot_be_read_ends_a_process_before_it_connects(lab):
    """On both sides, with the file's name."""
    gone = msgspec.structs.replace(lab.client(), key=str(lab.place / "gone"))
    for make in (server_credentials, channel_credentials):
        with pytest.raises(StepError, match=rf"^tls: the private key {lab.place}/gone cannot be read \(No such file"):
            make(gone)


# --- floods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01", os.urandom(200)], ids=["idle", "half", "noise"]
)
def test_a_crowd_at_the_door_keeps_nobody_out(lab, first):
    """300 connections that say nothing, half a hello, or noise: clients are served, and then the crowd is gone."""
    assert PATIENCE in dict(SERVER_OPTIONS)
    options = tuple((dict(SERVER_OPTIONS) | {PATIENCE: 1000}).items())
    with serving(lab.server(), options=options) as (at, _), contextlib.ExitStack() as stack:
        host, _, port = at.rpartition(":")
        crowd = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(300)]
        for one in crowd:
            one.sendall(first)
        assert ask(at, lab.client()) == "pi-a"
        assert closed(crowd) == 300
        assert ask(at, lab.client()) == "pi-a"


def closed(crowd: list[socket.socket]) -> int:
    """Wait for the far end of these connections to close them, and return how many it has closed."""
    waiting, deadline = {one.fileno(): one for one in crowd}, time.monotonic() + LONG_S
    while waiting and time.monotonic() < deadline:
        poll = select.poll()
        for descriptor in waiting:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(1000):
            with contextlib.suppress(ConnectionError):
                if waiting[descriptor].recv(4096):
                    continue
            del waiting[descriptor]
    return len(crowd) - len(waiting)


# --- refusals as events ----------------------------------------------------------------------------------------------

SERVER = """
import os, sys
from pathlib import Path
from flcommon.eventlog import EventLog
from flserver.refusals import refusals

place = Path(sys.argv[1])
with refusals(EventLog(place / "events.jsonl")):
    import flwr.app, flwr.serverapp  # as a campaign does: flwr would tell gRPC to keep quiet
    from concurrent.futures import ThreadPoolExecutor
    import grpc, msgspec
    from flcommon.job import Tls
    from flcommon.job import Transport
    from flserver.credentials import server_credentials
    from flserver.streams import server_options

    tls = msgspec.json.decode((place / "tls.json").read_bytes(), type=Tls)
    server = grpc.server(ThreadPoolExecutor(2), options=server_options(Transport(), 64))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    server.start()
    print(port, flush=True)
    word = sys.stdin.readline()
    os.write(2, b"last words\\n")
    if word == "crash\\n":
        os.abort()
    server.stop(0).wait()
"""


@contextmanager
def process(place: Path, tls: Tls, last: str = "end\n") -> Iterator[str]:
    """Run a server as a host does, its stderr in a file; give its address, and end it."""
    (place / "tls.json").write_bytes(msgspec.json.encode(tls))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FLWR_TELEMETRY_ENABLED": "0"}
    argv = [sys.executable, "-W", "ignore", "-c", SERVER, str(place)]
    with (
        (place / "stderr").open("wb") as stderr,
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        ) as server,
    ):
        try:
            yield f"127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.communicate(last, timeout=LONG_S)


def refused(place: Path) -> dict[str, int]:
    """Return how many were refused for which reason, in all."""
    reading = read_log(place / "events.jsonl")
    assert reading.problems == []
    total: dict[str, int] = {}
    for _, event in reading.events:
        total[event.reason] = total.get(event.reason, 0) + event.count
    return total


def test_each_refusal_is_an_event_with_its_reason(lab, tmp_path):
    """As many as there were: gRPC connects once for a call that does not wait."""
    with process(tmp_path, lab.server()) as at:
        for peer in REFUSED.values():
            refusal(at, peer(lab))
        with grpc.secure_channel(at, anonymous(lab)) as opened, pytest.raises(grpc.RpcError):
            opened.unary_unary("/lab/who")(b"", timeout=LONG_S)
    assert refused(tmp_path) == {
        "its certificate is not of this campaign": 2,
        "its certificate has expired, by this host's clock": 1,
        "its certificate is not valid yet, by this host's clock": 1,
        "its certificate is not a client's": 1,
        "it does not speak TLS": 1,
        "it shows no certificate": 1,
    }


def test_a_flood_is_few_events(lab, tmp_path):
    """500 connections of noise are counted to the last one, in about one event a second."""
    started = time.monotonic()
    with process(tmp_path, lab.server()) as at:
        host, _, port = at.rpartition(":")
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(500)]
            for one in crowd:
                one.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
            assert closed(crowd) == 500
    took = time.monotonic() - started
    assert refused(tmp_path) == {"it does not speak TLS": 500}
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) <= 2 + took


@pytest.mark.parametrize("last", ["end\n", "crash\n"])
def test_no_line_of_stderr_is_lost(lab, tmp_path, last):
    """Not even the last words before a crash."""
    with process(tmp_path, lab.server(), last) as at:
        refusal(at, lab.client(signer=Authority("c2")))
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert "last words" in lines
    assert sum("Handshake failed" in line for line in lines) == 1
