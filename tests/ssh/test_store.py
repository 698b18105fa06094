"""Big files over OpenSSH, through a relay that cuts the connection in the middle of a push."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.errors import ConnectionLost, HostError
from deploy.inventory import Host, Python, Ssh
from deploy.remote import ssh
from deploy.store import big_file, push_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MEGABYTE = 2**20


@dataclass
class Relay:
    """A way to a port on which connections are cut after so many bytes to it, one number a connection."""

    port: int
    cuts: list[int]
    passed: list[int] = field(default_factory=list)
    _open: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.port))
                self._open += [near, far]
                cut = self.cuts.pop(0) if self.cuts else None
                for words in ((near, far, cut), (far, near, None)):
                    threading.Thread(target=self._carry, args=words).start()

    def _carry(self, source: socket.socket, sink: socket.socket, cut: int | None) -> None:
        count = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                data = data if cut is None else data[: cut - count]
                sink.sendall(data)
                count += len(data)
                if count == cut:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # closing alone does not wake a thread that receives
            end.close()


@dataclass
class Again:
    """A Remote that connects again after a loss, and says that there was one."""

    host: Host
    remotes: list[ssh.SshRemote] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:
        return self._remote().read(argv, step=step, stdin=stdin)

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
        self.sent.append(0)

        def counted() -> Iterator[bytes]:
            for piece in stream:
                self.sent[-1] += len(piece)
                yield piece

        try:
            return self._remote().put(counted(), argv, step=step)
        except HostError as error:
            self.remotes.pop().close()
            raise ConnectionLost(self.host.name, step, error.reason) from error

    def _remote(self) -> ssh.SshRemote:
        if not self.remotes:
            self.remotes.append(ssh.connect(self.host))
        return self.remotes[-1]


@pytest.fixture
def cut(openssh, tmp_path: Path) -> Iterator[Callable[..., Again]]:
    """Give a host the way to which is cut after so many bytes, one number a connection."""
    with contextlib.ExitStack() as stack:

        def start(*cuts: int) -> Again:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = listener.getsockname()[1]
            relay = Relay(openssh.start(), list(cuts))
            key = openssh.known_hosts.read_text().splitlines()[-1].partition(" ")[2]
            with openssh.known_hosts.open("a") as file:
                file.write(f"[127.0.0.1]:{port} {key}\n")
            thread = threading.Thread(target=relay.serve, args=(listener,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            stack.callback(relay.close)
            host = Host(
                name="pi-a",
                role="client",
                host="127.0.0.1",
                ssh=Ssh(port=port, identity_file=str(openssh.identity_file), known_hosts=str(openssh.known_hosts)),
                python=Python(),
                workdir=str(tmp_path / "work"),
            )
            again = Again(host)
            stack.callback(lambda: [remote.close() for remote in again.remotes])
            return again

        yield start


def test_a_push_that_is_cut_goes_on(cut, tmp_path):
    """What the host has received before the cut is not sent again, and the file that results is whole."""
    path = tmp_path / "big.whl"
    path.write_bytes(os.urandom(12 * MEGABYTE))
    file = big_file(path)
    remote = cut(5 * MEGABYTE, 4 * MEGABYTE)
    seen: list[int] = []
    push_files(remote, remote.host.workdir, [file], lambda done, _: seen.append(done))
    assert Path(file.place(remote.host.workdir)).read_bytes() == path.read_bytes()
    assert [entry.name for entry in Path(file.place(remote.host.workdir)).parent.iterdir()] == ["big.whl"]
    assert len(remote.sent) == 3
    # The last try sends what two cut connections cannot have brought, and of each at most SSH's window (2 MiB) more:
    # what was on its way to the disk when the host was looked at again.
    assert 3 * MEGABYTE <= remote.sent[-1] <= 7 * MEGABYTE
    assert seen[-1] == file.size
