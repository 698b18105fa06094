"""The engine's stream through a relay: gRPC and TLS notice nothing of it but the link that it plays."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from deploy.authority import Authority
from flclient.credentials import channel_credentials, channel_options
from flclient.link.protocol import Applied, Mark, Ready, Request, Set, Setup, Tcp, Used, answers, line
from flcommon.credentials import certificate_request
from flcommon.job import Tls
from flcommon.link import NATURAL, Way
from flserver.credentials import server_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONG_S = 20.0
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Relayed:
    """A relay process in front of a server; `address` is where clients connect to."""

    def __init__(self, process: subprocess.Popen, server: str) -> None:
        self._process = process
        ready = self._ask(Setup(server=server), Ready)
        self.address = ready.address

    def set(self, up: Way = NATURAL, down: Way = NATURAL) -> None:
        self._ask(Set(number=1, up=up, down=down), Applied)

    def used(self, *, up: bool) -> Used:
        return self._ask(Mark(message="m", up=up), Used)

    def _ask(self, request: Request, wanted: type) -> Any:
        self._process.stdin.write(line(request))
        self._process.stdin.flush()
        while isinstance(answer := answers.decode(self._process.stdout.readline()), Tcp):
            pass
        assert isinstance(answer, wanted), answer
        return answer


@pytest.fixture
def relay() -> Iterator[Callable[[str], Relayed]]:
    """Return a function that puts a relay in front of a server; it ends by itself when its input does."""
    argv = [sys.executable, "-m", "flclient.link.relay"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield lambda server: Relayed(process, server)
        process.stdin.close()
        assert process.wait(LONG_S) == 0


class Echo(grpc.GenericRpcHandler):
    def service(self, _details: object) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(lambda requests, _context: requests)


@contextmanager
def serving(tls: Tls | None = None, port: int = 0) -> Iterator[int]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[Echo()], options=(*UNLIMITED, ("grpc.so_reuseport", 0)))
        bind = f"127.0.0.1:{port}"
        bound = server.add_insecure_port(bind) if tls is None else server.add_secure_port(bind, server_credentials(tls))
        server.start()
        try:
            yield bound
        finally:
            assert server.stop(0).wait(LONG_S)


def there_and_back(channel: grpc.Channel, *bodies: bytes, wait: bool = False) -> list[bytes]:
    call = channel.stream_stream("/lab/echo")
    return list(call(iter(bodies), timeout=LONG_S, wait_for_ready=wait))


def test_a_round_takes_the_links_time_more(make_lab: Callable, relay: Callable[[str], Relayed]) -> None:
    """A round with a client behind the relay is longer by both delays; nothing of a message is missing or changed."""
    lab = make_lab("a")
    lab.begin()
    relayed = relay(lab.address)
    lab.address = relayed.address
    hand = lab.join("a")

    def round_s(number: int) -> float:
        begun = time.perf_counter()
        asked = lab.ask(number)
        hand.answer(number)
        (reply,) = asked.result(LONG_S)
        assert reply.content["metrics"]["value"] == number
        return time.perf_counter() - begun

    natural_s = min(round_s(number) for number in range(10))
    relayed.set(Way(delay_ms=30), Way(delay_ms=50))
    injected_s = min(round_s(number) for number in range(10, 15))
    assert injected_s - natural_s == pytest.approx(0.08, abs=0.01)


def test_a_server_that_goes_and_comes(relay: Callable[[str], Relayed]) -> None:
    """Without a server a call is UNAVAILABLE, as without a relay; once there is one again, calls succeed."""
    with ExitStack() as stack:
        with serving() as port:
            relayed = relay(f"127.0.0.1:{port}")
            options = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200))
            channel = stack.enter_context(grpc.insecure_channel(relayed.address, options))
            assert there_and_back(channel, b"one", b"two") == [b"one", b"two"]
        with pytest.raises(grpc.RpcError) as caught:
            there_and_back(channel, b"lost")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with serving(port=port):
            assert there_and_back(channel, b"again", wait=True) == [b"again"]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_large_messages_go_through(tmp_path: Path, relay: Callable[[str], Relayed], *, secure: bool) -> None:
    """Megabytes both ways, TLS certificates checked against the server's own name; the relay has seen them all."""
    server, client = tls(tmp_path) if secure else (None, None)
    body = bytes(range(256)) * 20_000
    with serving(server) as port:
        relayed = relay(f"127.0.0.1:{port}")
        relayed.set(Way(delay_ms=2), Way(delay_ms=3, rate_mbit=800))
        with (
            grpc.insecure_channel(relayed.address, UNLIMITED)
            if client is None
            else grpc.secure_channel(
                relayed.address, channel_credentials(client), (*UNLIMITED, *channel_options(client))
            )
        ) as channel:
            assert there_and_back(channel, body, b"", body) == [body, b"", body]
        for up in (True, False):
            used = relayed.used(up=up)
            assert 2 * len(body) <= used.size_bytes <= 2.2 * len(body)
            assert used.held_mean_ms >= (2 if up else 3)


def tls(place: Path) -> tuple[Tls, Tls]:
    """Return the server's and a client's part of a campaign, for a server that clients know as 127.0.0.1."""
    authority = Authority("c1")

    def part(host: str, name: str | None) -> Tls:
        certificate = authority.sign(host, certificate_request(place / host), name)
        key = str(place / host / "host.key")
        return Tls(key=key, certificate=certificate, authority=authority.certificate, server_name="127.0.0.1")

    return part("hub", "127.0.0.1"), part("pi-a", None)
