"""The inventory: what the hosts of a lab *are*. Parsed once into these types; no raw dict travels further."""

from __future__ import annotations

import ipaddress
import os.path
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from deploy.convert import convert, unknown
from deploy.yamlfile import Node, read_yaml

# The comment in front of each pattern is what an error message says (see `deploy.convert`).
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#letters, digits, '.', '_' and '-', starting with a letter or digit,)^[A-Za-z0-9][A-Za-z0-9._-]*\Z",
        max_length=63,
    ),
]
"""Of labs, hosts and labels: becomes part of paths, so no spaces, slashes or shell characters."""
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Address = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#a host name or an IP address, without port,)^[A-Za-z0-9:_][A-Za-z0-9_.:%-]*\Z",
        max_length=253,
    ),
]
"""Goes onto command lines: no spaces, no shell characters, and no '-' in front, which ssh takes for an option."""
User = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#a login name)^[A-Za-z0-9_][A-Za-z0-9_.@+-]*\Z",
        max_length=64,
    ),
]
RemotePath = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#a path on the host: /… or ~/…, without spaces or shell characters,)^~?/[A-Za-z0-9_.,:@%+=/-]+\Z",
        max_length=200,
    ),
]
Interpreter = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#a program's name or a path on the host, without spaces or shell characters,)"
        r"^(~?/|[A-Za-z0-9])[A-Za-z0-9_.,:@%+=/-]*\Z",
        max_length=200,
    ),
]
InterfaceName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#a network interface of the host, as `ip link` names it,)^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z",
        max_length=15,
    ),
]
PythonVersion = Annotated[
    str,
    msgspec.Meta(pattern=r'(?#a Python version in quotes, "3.11" or later)^3\.(1[1-9]|[2-9][0-9])\Z'),
]

DEFAULT_PYTHON = "python3"
ClientCount = Annotated[int, msgspec.Meta(ge=1, le=200)]
Cores = Annotated[float, msgspec.Meta(ge=0.01, le=1024)]
"""A share of the processor's time: 0.25 is a quarter of one core."""

_HOP = (
    r"([A-Za-z0-9_][A-Za-z0-9_.@+-]*@)?"
    r"([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\])(:[0-9]{1,5})?"
)
Jump = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#a jump host as [user@]host[:port], several with commas in between, the nearest first, or none,)"
        rf"^{_HOP}(,{_HOP})*\Z",
        max_length=500,
    ),
]
"""As OpenSSH's ProxyJump."""

SERVER_NAME = "server"
DEFAULT_PORT = 8080
DEFAULT_WORKDIR = "~/.fieldlab"


class Ssh(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to log in. What is left out comes from ~/.ssh/config, then from OpenSSH's own defaults.

    Of a parsed inventory, the two files are absolute paths on the controller, and there is always a `known_hosts`:
    without an answer, it is the file of that name beside the inventory, which need not exist.
    """

    user: User | None = None
    port: Port | None = None
    jump: Jump | None = None
    password: Literal["prompt"] | None = None
    identity_file: str | None = None
    known_hosts: str | None = None
    connect_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0


class Python(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which Python runs the experiment, and who sees to it that flwr is installed there.

    `existing`: an interpreter, or a virtual environment's directory, that has it. `uv` and `wheelhouse` make an
    environment with the interpreter at `path`, `uv` also with one of `version` that it may have to bring; `torch: cpu`
    asks for PyTorch's CPU build.
    """

    manager: Literal["uv", "wheelhouse", "existing"] = "existing"
    path: Interpreter = DEFAULT_PYTHON
    version: PythonVersion | None = None
    torch: Literal["cpu", "default"] = "default"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One machine: its name in the experiment, and how to reach it.

    `interface` is the one whose traffic to the server is shaped and watched; empty: that of the route there.
    """

    name: Name
    role: Literal["server", "client"]
    host: str
    ssh: Ssh
    python: Python
    workdir: str
    labels: dict[str, str] = {}
    interface: str = ""
    inventory: str = ""
    """The file that lists it, for advice to the user; empty for a host that is in none."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """A lab: one server and at least one client. `server_address` is `address:port` as the clients see it."""

    file: Path
    lab: Name
    playbook: Path | None
    server: Host
    server_address: str
    clients: tuple[Host, ...]

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts, the server first."""
        return (self.server, *self.clients)


class VirtualLab(msgspec.Struct, frozen=True, kw_only=True):
    """A lab that the toolkit starts itself (`provider: virtual`): one server and `clients` clients on this machine."""

    file: Path
    lab: Name
    playbook: Path | None
    clients: ClientCount

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the hosts, the server first."""
        return _names(self.clients)


class NetnsLab(msgspec.Struct, frozen=True, kw_only=True):
    """A lab of network namespaces on this machine (`provider: netns`, Linux, root); `cpu` is in cores, by host name."""

    file: Path
    lab: Name
    playbook: Path | None
    clients: ClientCount
    cpu: dict[str, float] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the hosts, the server first."""
        return _names(self.clients)


def _names(clients: int) -> tuple[str, ...]:
    return (SERVER_NAME, *(f"client-{number}" for number in range(1, clients + 1)))


def load_inventory(path: Path) -> Inventory | VirtualLab | NetnsLab:
    """Read an inventory file; raises InputError that names file, line and key.

    Paths in it are relative to the file; `~` in `identity_file`, `known_hosts` and `playbook` is the controller's.
    """
    top = read_yaml(path)
    return _started_lab(top) if "provider" in top.entries() else _inventory(top)


class _Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of both kinds of inventory."""

    lab: Name
    playbook: str | None = None


class _Provider(msgspec.Struct, frozen=True, kw_only=True):
    """The one key that says what the others may be."""

    provider: Literal["virtual", "netns"]


class _VirtualFile(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An inventory file with `provider: virtual`."""

    provider: Literal["virtual"]
    clients: ClientCount


class _NetnsFile(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An inventory file with `provider: netns`."""

    provider: Literal["netns"]
    clients: ClientCount
    cpu: dict[Name, Cores] = {}


class _HostEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may stand below the server and below a client's name."""

    host: Address
    ssh: Ssh = Ssh()
    python: Python = Python()
    workdir: RemotePath | None = None
    labels: dict[Name, str] = {}


class _ClientEntry(_HostEntry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands below a client's name."""

    interface: InterfaceName | None = None


class _ServerEntry(_HostEntry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands below `server`."""

    address: str | None = None
    name: Name = SERVER_NAME


class _LabFile(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An inventory file that lists hosts."""

    server: _ServerEntry
    clients: dict[Name, _ClientEntry]
    ssh: Ssh = Ssh()
    python: Python = Python()
    workdir: RemotePath = DEFAULT_WORKDIR


def _started_lab(top: Node) -> VirtualLab | NetnsLab:
    clients = top.get("clients")
    lists = [top.get("server"), clients if clients and isinstance(clients.value, dict | list) else None]
    for node in lists:
        if node is not None:
            raise node.error(
                "the same thing is said twice: with `provider` the toolkit starts the hosts itself;"
                " give `clients` as a number and no `server`, or leave `provider` out"
            )
    if convert(top, _Provider).provider == "netns":
        return _netns_lab(top)
    if (cpu := top.get("cpu")) is not None:
        raise cpu.error("a virtual lab's hosts cannot have a CPU share: this key needs `provider: netns`")
    entry = convert(top, _VirtualFile)
    return VirtualLab(file=top.file, lab=entry.lab, playbook=_playbook(top), clients=entry.clients)


def _netns_lab(top: Node) -> NetnsLab:
    entry = convert(top, _NetnsFile)
    lab = NetnsLab(file=top.file, lab=entry.lab, playbook=_playbook(top), clients=entry.clients, cpu=dict(entry.cpu))
    cpu = top.get("cpu")
    for name, node in cpu.entries().items() if cpu else ():
        if name not in lab.names:
            raise node.error(f"there is no host {name!r}{unknown(name, lab.names, 'hosts')}")
    return lab


def _inventory(top: Node) -> Inventory:
    clients = top.get("clients")
    if clients and isinstance(clients.value, int):
        raise clients.error(
            "a number of clients needs `provider: virtual` or `netns`; a real lab lists its clients by name"
        )
    entry = convert(top, _LabFile)
    if clients is None or not clients.value:
        raise top.entries()["clients"].error("a lab needs at least one client")
    server_node = top.entries()["server"]
    server = _host(top, server_node, entry.server, entry.server.name)
    lab = Inventory(
        file=top.file,
        lab=entry.lab,
        playbook=_playbook(top),
        server=server,
        server_address=_server_address(server_node, server),
        clients=tuple(_host(top, node, entry.clients[name], name) for name, node in clients.entries().items()),
    )
    _refuse_duplicates(lab, [server_node, *clients.entries().values()])
    return lab


def _host(top: Node, node: Node, entry: _HostEntry, name: str) -> Host:
    """Return a host from its entry, completed with the inventory's defaults; its own keys win."""
    if ":" in entry.host and not _is_ipv6(entry.host):
        raise node.entries()["host"].error(
            f"must be a host name or an IP address, not {entry.host!r}: a port stands in ssh: {{port: …}}"
        )
    workdir = top.get("workdir")
    return Host(
        name=name,
        role="server" if isinstance(entry, _ServerEntry) else "client",
        host=entry.host,
        ssh=_ssh(_merged(top, node, "ssh")),
        python=_python(top, node),
        workdir=entry.workdir or (str(workdir.value) if workdir else DEFAULT_WORKDIR),
        labels=entry.labels,
        interface=(entry.interface or "") if isinstance(entry, _ClientEntry) else "",
        inventory=str(top.file),
    )


def _ssh(section: Node) -> Ssh:
    """Return how to log in, with its files as absolute paths."""
    ssh = convert(_ssh_files(section), Ssh)
    return msgspec.structs.replace(ssh, known_hosts=ssh.known_hosts or str(_beside(section.file, "known_hosts")))


def _beside(file: Path, name: str) -> Path:
    return Path(os.path.abspath(file.parent / name))  # noqa: PTH100 - as _local_path


def _merged(top: Node, host: Node, section: str) -> Node:
    """Return a section of a host, completed with the inventory's section of that name."""
    parts = [part for part in (top.get(section), host.get(section)) if part is not None]
    merged = {key: value for part in parts for key, value in part.entries().items()}
    return (parts[-1] if parts else host).having(merged)


def _python(top: Node, host: Node) -> Python:
    """Return how a host comes by its Python; a host that names a manager of its own inherits nothing."""
    own = host.get("python")
    section = own if own is not None and own.get("manager") is not None else _merged(top, host, "python")
    if section.get("manager") is None:
        implied = "uv" if section.get("path") is None else "existing"
        section = section.having({**section.entries(), "manager": replace(section, value=implied)})
    python = convert(section, Python)
    _refuse_nonsense(section, python)
    return python


def _refuse_nonsense(section: Node, python: Python) -> None:
    """Raise InputError for a key that the manager cannot heed."""
    entries = section.entries()
    if python.manager == "existing" and python.torch == "cpu":
        why = "asks for an environment with PyTorch's CPU build, but what exists is used as it is"
        raise entries["torch"].error(f"{why}: leave it out, or give manager: uv or wheelhouse")
    if python.version is None:
        return
    if python.manager != "uv":
        why = f"is what uv finds or brings, but the manager is {python.manager}"
        raise entries["version"].error(f"{why}: give path instead, or manager: uv")
    if section.get("path") is not None:
        raise entries["version"].error("says which Python is used, and so does path: give one of the two")


def _ssh_files(ssh: Node) -> Node:
    """Return the section with its files as absolute paths."""
    files = {
        key: replace(node, value=str(_local_path(node)))
        for key in ("identity_file", "known_hosts")
        if (node := ssh.get(key)) is not None
    }
    return ssh.having({**ssh.entries(), **files})


def _local_path(node: Node) -> Path:
    """Return the path on the controller that a node of type text names."""
    path = Path(os.path.expanduser(str(node.value)))  # noqa: PTH111 - Path.expanduser raises on an unknown user
    if not path.parts:
        raise node.error("must be a path, not empty")
    if path.parts[0].startswith("~"):
        raise node.error(f"there is no user {path.parts[0][1:]!r} on this machine")
    return Path(os.path.abspath(node.file.parent / path))  # noqa: PTH100 - a link in the path stays as written


def _playbook(top: Node) -> Path | None:
    node = top.get("playbook")
    return None if node is None else _local_path(node)


def _server_address(node: Node, server: Host) -> str:
    """Return `address:port` as the clients see it; without an answer in the file, the server's host and 8080."""
    address = node.get("address")
    if address is None:
        host = f"[{server.host}]" if ":" in server.host else server.host
        return f"{host}:{DEFAULT_PORT}"
    text = str(address.value)
    match = re.fullmatch(
        r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)):(?P<port>[0-9]{1,5})", text
    )
    if match is None or not 1 <= int(match["port"]) <= 65535 or not _is_reachable(match["v6"], match["name"]):  # noqa: PLR2004 - ports
        raise address.error(
            "must be what the clients connect to, as address:port or [IPv6 address]:port"
            f" with a port from 1 to 65535, for example {server.host}:{DEFAULT_PORT}, not {address.shown()}"
        )
    return text


def _is_reachable(v6: str | None, name: str | None) -> bool:
    """Tell whether an address can be connected to: it is well formed, and not 0.0.0.0 or ::."""
    try:
        return not ipaddress.ip_address(v6 or name or "").is_unspecified
    except ValueError:
        return v6 is None and not re.fullmatch(r"[0-9.]+", name or "")


def _is_ipv6(address: str) -> bool:
    try:
        ipaddress.IPv6Address(address)  # with a scope too, as fe80::1%eth0
    except ValueError:
        return False
    return True


def _refuse_duplicates(lab: Inventory, nodes: list[Node]) -> None:
    """Raise InputError if two hosts have one name, or are the same login on the same machine."""
    names: dict[str, Node] = {}
    logins: dict[tuple[str, int, str | None], Node] = {}
    for host, node in zip(lab.hosts, nodes, strict=True):
        login = (host.host.lower(), host.ssh.port or 22, host.ssh.user)
        if host.name in names:
            first = names[host.name]
            raise node.error(f"duplicate host: {host.name!r} is the name of {first.key} (line {first.line}) too")
        if login in logins:
            first = logins[login]
            raise node.error(
                f"duplicate host: {host.host} with the same port and user is {first.key} (line {first.line}) too"
            )
        names[host.name] = logins[login] = node
