"""The way to a host: ~/.ssh/config, the jump hosts in between, and what known_hosts says of each. By Fabric."""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import paramiko
from fabric import Config, Connection

from deploy.remote.hostkeys import KnownHost, entries_for

if TYPE_CHECKING:
    from deploy.inventory import Host

SSH_PORT = 22
_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


def jump_hosts(host: Host) -> tuple[Host, ...]:
    """Return the jump hosts on the way to a host, the nearest to us first, each as a host of its own."""
    hops = list(reversed(hops_of(connection_to(host))[1:]))
    return tuple(
        msgspec.structs.replace(
            host,
            name=hop.original_host,
            host=hop.original_host,
            ssh=msgspec.structs.replace(
                host.ssh, user=hop.user, port=hop.port, password=None, jump=",".join(map(_spec, hops[:i])) or "none"
            ),
        )
        for i, hop in enumerate(hops)
    )


def _spec(hop: Connection) -> str:
    address = f"[{hop.original_host}]" if ":" in hop.original_host else hop.original_host
    return f"{hop.user}@{address}:{hop.port}"


def connection_to(host: Host) -> Connection:
    """Return a connection that is not open yet; its gateways are the jump hosts."""
    connection = Connection(
        host.host, user=host.ssh.user, port=host.ssh.port, gateway=_gateway(host.ssh.jump), config=_config()
    )
    hops = hops_of(connection)
    if host.ssh.jump and any((hop.host, hop.port) == (connection.host, connection.port) for hop in hops[1:]):
        connection.gateway = False  # it is the jump host itself
    return connection


def _gateway(jump: str | None) -> Connection | bool | None:
    """Return what Fabric calls a gateway: a chain of connections, False for none, None to ask ~/.ssh/config."""
    if jump is None or jump == "none":
        return None if jump is None else False
    gateway: Connection | None = None
    for hop in jump.split(","):
        user, _, place = hop.rpartition("@")
        match = re.fullmatch(r"(?:\[(?P<v6>[^]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d+))?", place)
        assert match is not None  # noqa: S101 - the inventory's pattern
        port = int(match["port"]) if match["port"] else None
        gateway = Connection(
            match["v6"] or match["name"], user=user or None, port=port, gateway=gateway, config=_config()
        )
    return gateway


def _config() -> Config:
    # One configuration each: a shared one is empty for a moment while another connection opens (fabric 3.2.3).
    # Lazy: ~/.fabric.yaml and FABRIC_… variables have no say here.
    return Config(lazy=True, ssh_config=_ssh_config(Path.home()))


def hops_of(connection: Connection) -> list[Connection]:
    """Return the connection and, after it, the jump hosts that it goes through, the nearest to us last."""
    hops = [connection]
    while isinstance(hops[-1].gateway, Connection):
        hops.append(hops[-1].gateway)
    return hops


def known_host(hop: Connection, host: Host) -> KnownHost:
    """Return what the known_hosts files of a host's lab, of the user and of the system say of one hop on the way."""
    address = hop.host if hop.port == SSH_PORT else f"[{hop.host}]:{hop.port}"
    name = hop.ssh_config.get("hostkeyalias", address)
    own = (Path(host.ssh.known_hosts).expanduser(),) if host.ssh.known_hosts else ()
    files = (*own, *_user_files(hop), _SYSTEM_KNOWN_HOSTS)
    entries = tuple(entry for file in files for entry in entries_for(file, name))
    return KnownHost(name, files, host.inventory, entries)


def _user_files(hop: Connection) -> list[Path]:
    named = hop.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    return [Path(file).expanduser() for file in named.split()]


@functools.cache
def _ssh_config(home: Path) -> paramiko.SSHConfig:
    """Read ~/.ssh/config and the system's once; the first answer to a question counts, as with OpenSSH."""
    config = paramiko.SSHConfig()
    for file in (home / ".ssh" / "config", _SYSTEM_CONFIG):
        with contextlib.suppress(FileNotFoundError), file.open() as text:
            config.parse(text)
    return config
