"""What TLS costs: keys, handshakes, and messages over one gRPC stream on loopback, against the same without TLS.

python bench/tls.py [megabytes …]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from deploy.authority import Authority
from flclient.credentials import channel_credentials, channel_options
from flcommon.credentials import certificate_request
from flcommon.job import Tls
from flserver.credentials import server_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
SIZES_MB = (0.25, 4, 100)
SECONDS = 3.0
CONNECTIONS = 100


class Echo(grpc.GenericRpcHandler):
    """Sends back what it gets."""

    def service(self, _details: object) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Every method is a stream."""
        return grpc.stream_stream_rpc_method_handler(lambda requests, _context: requests)


def credentials(place: Path) -> tuple[Tls, Tls]:
    """Return the server's and a client's part of a campaign."""
    authority = Authority("bench")
    return tuple(
        Tls(
            key=str(place / host / "host.key"),
            certificate=authority.sign(host, certificate_request(place / host), name),
            authority=authority.certificate,
            server_name="127.0.0.1",
        )
        for host, name in (("server", "127.0.0.1"), ("client", None))
    )


@contextmanager
def serving(tls: Tls | None) -> Iterator[str]:
    """Run the far end in this process."""
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo()], options=UNLIMITED)
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if tls is None
        else server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    )
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def channel(address: str, tls: Tls | None) -> grpc.Channel:
    """Return a connection of its own, shared with no other channel."""
    options = (*UNLIMITED, ("grpc.use_local_subchannel_pool", 1))
    if tls is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, channel_credentials(tls), (*options, *channel_options(tls)))


def connect_s(address: str, tls: Tls | None) -> float:
    """Return how long it takes until a new channel is ready."""
    started = time.perf_counter()
    with channel(address, tls) as opened:
        grpc.channel_ready_future(opened).result(10)
        return time.perf_counter() - started


def there_and_back_s(address: str, tls: Tls | None, size: int) -> list[float]:
    """Return how long messages of a size take to the far end and back, one after the other."""
    body, taken = bytes(size), []
    with channel(address, tls) as opened:
        deadline = time.perf_counter() + SECONDS
        offered: list[float] = []

        def messages() -> Iterator[bytes]:
            while not offered or time.perf_counter() < deadline or len(offered) < 5:  # noqa: PLR2004 - for a median
                offered.append(time.perf_counter())
                yield body
                while len(taken) < len(offered):
                    time.sleep(0.0001)

        for _ in opened.stream_stream("/bench/echo")(messages()):
            taken.append(time.perf_counter() - offered[len(taken)])
    return taken[1:]


def median_ms(measure: Callable[[], float], times: int) -> float:
    """Return the median of so many measurements, in ms."""
    return 1e3 * statistics.median(measure() for _ in range(times))


def fresh_key_s() -> float:
    """Return how long a host takes to make its key and request, as `up` has it done: a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        argv = [sys.executable, "-m", "flcommon.commands", "request", f"{place}/keys"]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    sizes = [float(word) for word in sys.argv[1:]] or SIZES_MB
    with tempfile.TemporaryDirectory() as place:
        server, client = credentials(Path(place))
        request, authority = certificate_request(Path(place) / "client"), Authority("bench")
        print(f"a host's key and request, a process of its own: {median_ms(fresh_key_s, 7):.0f} ms")
        signing = median_ms(lambda: _timed(lambda: authority.sign("client", request)), 100)
        print(f"signing one host's certificate: {signing:.2f} ms")
        with serving(None) as plain, serving(server) as secure:
            ways = ((plain, None), (secure, client))
            without, with_tls = (median_ms(lambda way=way: connect_s(*way), CONNECTIONS) for way in ways)
            print(f"connect: {without:.2f} ms, with TLS {with_tls:.2f} ms")
            for size in sizes:
                # In turns, so that a busy moment of the machine does not hit one of the two alone.
                runs = [[there_and_back_s(*way, int(size * 1e6)) for way in ways] for _ in range(3)]
                without, with_tls = (1e3 * statistics.median(chain(*way)) for way in zip(*runs, strict=True))
                ratio = with_tls / without
                print(f"{size:g} MB there and back: {without:.2f} ms, with TLS {with_tls:.2f} ms: {ratio:.2f} times")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
