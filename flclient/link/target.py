"""Whose packets are shaped, and on which interface of this host."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flclient.link.errors import LinkError
from flclient.link.tc import DEFAULT_MBIT
from flcommon.link import OUR_DEVICES

if TYPE_CHECKING:
    from flclient.link.tools import Tools

_INTERFACES = Path("/sys/class/net")


@dataclass(frozen=True)
class Interface:
    """A network interface as the kernel describes it; `mbit` is its speed, where it says one."""

    name: str
    index: int
    mtu: int
    mbit: float

    @property
    def ifb(self) -> str:
        """The name of our own device, through which what this interface receives is led."""
        return f"{OUR_DEVICES}{self.index}"


@dataclass(frozen=True)
class Target:
    """The experiment's packets: TCP to and from these addresses and this port, over this interface."""

    interface: Interface
    addresses: tuple[str, ...]
    port: int


def find_target(server: str, interface: str, tools: Tools) -> Target:
    """Look up a server (`address:port`) and the way to it; LinkError. Without an interface, it is the route's."""
    if interface and not (_INTERFACES / interface).exists():
        known = ", ".join(sorted(path.name for path in _INTERFACES.iterdir()))
        raise LinkError(f"there is no interface {interface!r} on this host (it has: {known})")
    name, _, port = server.rpartition(":")
    routes = {address: tools.route(address) for address in _resolve(name.strip("[]"), server)}
    ways = {address: device for address, device in routes.items() if device is not None}
    if not ways:
        raise LinkError(f"this host has no route to the server {server}")
    devices = sorted(set(ways.values()))
    if interface and devices != [interface]:
        raise LinkError(
            f"the server {server} is not reached over {interface} but over {' and '.join(devices)}:"
            " a link that is shaped there would not be felt"
        )
    if len(devices) > 1:
        over = ", ".join(f"{address} over {device}" for address, device in ways.items())
        raise LinkError(f"the server {server} is reached over several interfaces ({over}): write one of its addresses")
    return Target(describe(devices[0]), tuple(ways), int(port))


def describe(name: str) -> Interface:
    """Return what the kernel says of an interface."""
    place = _INTERFACES / name
    try:
        mbit = float((place / "speed").read_text())
    except (OSError, ValueError):  # Wi-Fi and many virtual ones do not say
        mbit = 0.0
    return Interface(
        name, int((place / "ifindex").read_text()), int((place / "mtu").read_text()), max(mbit, DEFAULT_MBIT)
    )


def interfaces() -> list[Interface]:
    """Return every interface of this host, and those that are gone of which a device of ours has stayed."""
    present = [describe(path.name) for path in sorted(_INTERFACES.iterdir()) if (path / "ifindex").exists()]
    known = {interface.ifb for interface in present}
    ours = [path.name for path in sorted(_INTERFACES.glob(f"{OUR_DEVICES}*")) if path.name not in known]
    return [*present, *(Interface(f"(gone) {name}", int(name.removeprefix(OUR_DEVICES)), 0, 0.0) for name in ours)]


def _resolve(name: str, server: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LinkError(f"the name of the server {server} is not known on this host: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
