"""Starts the hosts of a virtual lab on this machine, without root, and takes them away again without a trace.

The hosts are real SSH servers in a process of their own (`deploy.providers.virtual.sshd`); everything after this
module is the same code path as on a real lab.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import msgspec

from deploy.errors import TAIL_LINES, DeployError
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.providers.virtual import state as virtual_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.inventory import VirtualLab

_ADDRESS = "127.0.0.1"
_START_S = 30.0
_END_S = 15.0
_SOURCE = Path(__file__).resolve().parents[3]


class _Reached(msgspec.Struct, frozen=True):
    port: int
    home: str


class _Ready(msgspec.Struct, frozen=True):
    """What the subprocess says once all its hosts can be reached."""

    identity_file: str
    known_hosts: str
    hosts: dict[str, _Reached]


@contextlib.contextmanager
def virtual_lab(lab: VirtualLab) -> Iterator[Inventory]:
    """Run a lab's hosts for the length of a with-block; DeployError if they do not start.

    However this process ends (Ctrl-C, SIGKILL), everything that was started on the hosts is killed, daemons included.
    """
    with tempfile.TemporaryFile() as stderr, _sshd(stderr) as process:
        yield _inventory(lab, _start(process, lab.names, stderr))


@contextlib.contextmanager
def _sshd(stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Hold the pipe whose end, by any cause, makes the subprocess give up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.providers.virtual.sshd"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"PYTHONPATH": _python_path()},
        start_new_session=True,  # Ctrl-C in a terminal goes to the whole foreground process group
    )
    try:
        yield process
    finally:
        _end(process)


def _python_path() -> str:
    """Let the subprocess find this very code, wherever the controller was started."""
    return os.pathsep.join(filter(None, (str(_SOURCE), os.environ.get("PYTHONPATH"))))


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        virtual_state.clear_leftovers()


def _start(process: subprocess.Popen[bytes], names: Sequence[str], stderr: IO[bytes]) -> _Ready:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("made with pipes")
    with contextlib.suppress(BrokenPipeError):  # it has ended already: its stderr says why
        process.stdin.write(msgspec.json.encode({"hosts": names}) + b"\n")
        process.stdin.flush()
    told, _, _ = select.select([process.stdout], [], [], _START_S)
    line = process.stdout.readline() if told else b""
    if not line.endswith(b"\n"):
        raise DeployError(_failure(stderr, in_time=bool(told)))
    return msgspec.json.decode(line, type=_Ready)


def _failure(stderr: IO[bytes], *, in_time: bool) -> str:
    stderr.seek(0)
    tail = stderr.read().decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
    what = "ended at once" if in_time else f"were not ready within {_START_S:.0f} s"
    return "\n".join([f"virtual lab: its SSH servers {what}", *(f"    {line}" for line in tail)])


def _inventory(lab: VirtualLab, ready: _Ready) -> Inventory:
    server, *clients = (
        _host(name, "server" if name == "server" else "client", reached, ready) for name, reached in ready.hosts.items()
    )
    return Inventory(
        file=lab.file,
        lab=lab.lab,
        playbook=lab.playbook,
        server=server,
        server_address=f"{_ADDRESS}:0",  # the server process takes a free port and says which
        clients=tuple(clients),
    )


def _host(name: str, role: Literal["server", "client"], reached: _Reached, ready: _Ready) -> Host:
    return Host(
        name=name,
        role=role,
        host=_ADDRESS,
        ssh=Ssh(
            user=getpass.getuser(),
            port=reached.port,
            identity_file=ready.identity_file,
            known_hosts=ready.known_hosts,
        ),
        python=Python(manager="existing", path=sys.executable),
        workdir="~/.fieldlab",
    )
