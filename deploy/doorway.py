"""Whether the server's port can be used, and be reached from each client: tried, with a listener of our own there."""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from deploy import hostside
from deploy.errors import DeployError, HostError
from deploy.facts import Finding, understood
from deploy.remote.fanout import fan_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deploy.health import Examined
    from deploy.inventory import Inventory
    from deploy.remote.protocol import Remote

STEP = "reach"
PATIENCE_S = 5.0
"""For one connection; a packet that a firewall drops is never answered."""
ANSWER_S = 20.0
"""For the listener's first word: Python on a busy Raspberry Pi starts in seconds."""
LIFE_S = 120
"""The listener ends by itself after this time if nobody ends it before."""


class Listening(msgspec.Struct, frozen=True):
    """What the listener says first: its port, or who has it already, or why it cannot be had."""

    port: int | None = None
    busy: str | None = None
    refused: str | None = None


class Reached(msgspec.Struct, frozen=True):
    """What a client found: nothing wrong, or how it failed and why."""

    problem: Literal["", "name", "silent", "other", "refused"]
    why: str = ""


@dataclass(frozen=True)
class Place:
    """The address that clients connect to, in its parts, and the inventory file that says so."""

    host: str
    port: int
    listen: str
    file: str


def server_port(
    inventory: Inventory, listen: str, remotes: Mapping[str, Remote], seen: Mapping[str, Examined]
) -> dict[str, list[Finding]]:
    """Let every client connect to the port on which the server will `listen`; return findings by host.

    Only hosts with a Python take part; the connection to the server is closed, as it has no other end.
    """
    able = {name: remotes[name] for name, one in seen.items() if one.facts.python}
    server = inventory.server.name
    if server not in able or seen[server].facts.running:
        return {}
    host, _, port = inventory.server_address.rpartition(":")
    place = Place(host.strip("[]"), int(port), listen, str(inventory.file))
    word = secrets.token_hex(8)
    argv = [seen[server].facts.python, "-c", hostside.source("listen"), listen, word, str(LIFE_S)]
    try:
        with _listener(able[server], argv) as told:
            if told.port is None:
                return {server: [_unusable(told, place)]}
            words = (place.host, str(told.port), word, str(PATIENCE_S))
            clients = {name: remote for name, remote in able.items() if name != server}
            return fan_out(clients, lambda remote: _tried(remote, seen[remote.host], words, place, server))
    except HostError as error:
        return {server: [Finding("error", STEP, error.reason, "deploy check again; if it stays so, log in and look")]}


@contextlib.contextmanager
def _listener(remote: Remote, argv: list[str]) -> Iterator[Listening]:
    """Run the listener for the length of a with-block; it sees that its reader is gone when the connection closes."""
    told: queue.SimpleQueue[str | DeployError] = queue.SimpleQueue()

    def run() -> None:
        try:
            remote.run(argv, step=STEP, on_line=told.put)
            told.put("")
        except DeployError as error:
            told.put(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield _first_word(remote, told)
    finally:
        remote.close()
        thread.join()


def _first_word(remote: Remote, told: queue.SimpleQueue[str | DeployError]) -> Listening:
    try:
        first = told.get(timeout=ANSWER_S)
    except queue.Empty:
        raise HostError(remote.host, STEP, f"the listener did not start within {ANSWER_S:g} s") from None
    if isinstance(first, DeployError):
        raise first
    return understood(remote, first, Listening, STEP)


def _tried(remote: Remote, seen: Examined, words: tuple[str, ...], place: Place, server: str) -> list[Finding]:
    """Let one client connect; return what is wrong, if anything is."""
    argv = [seen.facts.python, "-c", hostside.source("reach"), *words]
    try:
        found = understood(remote, remote.read(argv, step=STEP), Reached, STEP)
    except HostError as error:
        return [Finding("error", STEP, error.reason, "deploy check again; if it stays so, log in and look")]
    if not found.problem:
        return []
    address = f"{place.host}:{words[1]}"
    fixes = {
        "name": f"give server.address in {place.file} as an IP address, or the host a line for it in /etc/hosts",
        "other": f"correct server.address in {place.file}: it leads to another machine than {server}",
        "silent": _open_port(server, words[1]),
        "refused": f"{_open_port(server, words[1])}; or correct server.address in {place.file}",
    }
    what = f"the server's port cannot be reached from here ({address}): {found.why}"
    return [Finding("error", "port", what, fixes[found.problem])]


def _open_port(server: str, port: str) -> str:
    return f"on {server}: sudo ufw allow {port}/tcp (or: sudo firewall-cmd --add-port={port}/tcp)"


def _unusable(told: Listening, place: Place) -> Finding:
    if told.busy is not None:
        what = f"the server's port {place.port} is in use by {told.busy}"
        fix = f"end it (sudo ss -ltnp 'sport = :{place.port}' shows it), or set another port in {place.file}"
        return Finding("error", "port-in-use", what, fix)
    what = f"the server cannot listen on {place.listen}: {told.refused}"
    return Finding(
        "error",
        "port",
        what,
        f"correct server.address in {place.file}: an address of this host (ip address), or a name",
    )
