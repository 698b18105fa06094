"""A lab of real SSH servers on loopback, OpenSSH's own servers as hosts, and a relay that can be slow or cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

import psutil
import pytest

from deploy.errors import HostError
from deploy.inventory import Host, Python, Ssh, VirtualLab
from deploy.providers.virtual.lab import virtual_lab
from deploy.remote import ssh
from deploy.remote.protocol import Words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from deploy.inventory import Inventory
    from deploy.remote.asking import Ask


@dataclass
class Relay:
    """Listens on a port of its own for the length of a with-block, in a thread with an event loop."""

    target: int
    one_way_s: float = 0.0
    port: int = 0
    connections: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),))
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """End every connection at once, in both directions."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, ready: threading.Event) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._over.wait()
        server.close()
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The hand-shake of TCP itself takes no round trip here: both directions of the target start one late."""
        self.connections += 1
        await asyncio.sleep(2 * self.one_way_s)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers += [writer, far_writer]
        for end in (writer, far_writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on every piece one delay after it came, without waiting for it before the next is read."""
        loop = asyncio.get_running_loop()

        def hand_on(data: bytes) -> None:
            with contextlib.suppress(OSError):
                if not writer.is_closing():
                    writer.write(data) if data else writer.write_eof()

        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                loop.call_later(self.one_way_s, hand_on, data)
        loop.call_later(self.one_way_s, hand_on, b"")


@dataclass(frozen=True)
class Bench:
    """Hosts on OpenSSH's own servers (the fixture `openssh`), all named `pi`."""

    openssh: object

    @property
    def place(self) -> Path:
        return self.openssh.place

    @property
    def identity_file(self) -> Path:
        return self.openssh.identity_file

    def start(self, **options: object) -> int:
        """Start one more server; its users' home is empty, so that nothing but the test decides what a shell does."""
        return self.openssh.start(**{"SetEnv": f"HOME={self.place}"} | options)

    def host(self, port: int, **settings: object) -> Host:
        """A host with that port, and other settings of `ssh` if given."""
        usual = {
            "user": "root",
            "port": port,
            "identity_file": str(self.identity_file),
            "known_hosts": str(self.openssh.known_hosts),
        }
        return Host(
            name="pi", role="client", host="127.0.0.1", ssh=Ssh(**usual | settings), python=Python(), workdir="~/x"
        )

    def new_host(self, **options: object) -> Host:
        """A host on a new server with these options."""
        return self.host(self.start(**options))

    def know_as(self, name: str) -> None:
        """Record the servers' one host key under one more name."""
        key = " ".join((self.place / "host_key.pub").read_text().split()[:2])
        with self.openssh.known_hosts.open("a") as file:
            file.write(f"{name} {key}\n")

    def script(self, text: str) -> Path:
        """A program that stands between sshd and every command (ForceCommand)."""
        script = self.place / "shell"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        return script

    def lock_key(self, passphrase: str) -> None:
        argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-f", self.identity_file]
        subprocess.run(argv, check=True, capture_output=True)

    def relay_to(self, port: int) -> Relay:
        return Relay(port)

    @contextlib.contextmanager
    def relayed(self, one_way_s: float = 0.0) -> Iterator[tuple[Host, Relay]]:
        """A host on a new server, reached through a relay."""
        with Relay(self.start(), one_way_s) as relay:
            self.know_as(f"[127.0.0.1]:{relay.port}")
            yield self.host(relay.port), relay

    def refusal(self, host: Host, ask: Ask | None = None) -> str:
        """Why the login fails; ends the test if it does not."""
        with pytest.raises(HostError) as caught:
            ssh.Connector(ask)(host)
        assert (caught.value.host, caught.value.step) == ("pi", "connect")
        return caught.value.reason

    def sessions(self) -> list[psutil.Process]:
        """The processes that serve one connection each."""
        servers = [process for process in psutil.Process().children() if process.name() == "sshd"]
        return [session for server in servers for session in server.children()]

    def kill_connections(self) -> None:
        """End the processes of every connection, not the servers."""
        for session in self.sessions():
            for process in (session, *session.children(recursive=True)):
                if process.name() == "sshd":
                    process.kill()


class Said(Words):
    """Words that a test says one by one; None is the end."""

    def __init__(self) -> None:
        self.closed = False
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()

    def say(self, word: bytes | None) -> None:
        self._queue.put(word)

    def __next__(self) -> bytes:
        word = self._queue.get()
        if word is None:
            raise StopIteration
        return word

    def close(self) -> None:
        self.closed = True
        self._queue.put(None)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def bench(openssh: object) -> Bench:
    return Bench(openssh)


@pytest.fixture(scope="session")
def lab() -> Iterator[Inventory]:
    with virtual_lab(VirtualLab(file=Path("virtual.yaml"), lab="tests", playbook=None, clients=2)) as inventory:
        yield inventory


@pytest.fixture
def remote(lab: Inventory) -> Iterator[ssh.SshRemote]:
    with ssh.connect(lab.server) as remote:
        yield remote


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Every connection's threads end with it."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), f"{thread} was left behind"
