"""What the controller, the keeper and the hosts of a lab of network namespaces tell one another; pure data."""

from __future__ import annotations

import ipaddress

import msgspec

MARK = "FIELDLAB_NETNS"
"""Environment variable of a lab's own processes, not of what runs on its hosts: the lab's name."""
SSH_PORT = 22
SERVER_PORT = 8080
CALLER = 254
"""The last part of the controller's own address in the lab's network; the hosts have 1, 2, 3, …"""


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What a test wants of one host beyond the usual.

    `users`: further logins, name to shell. `home_mb`: size of the file system that holds the homes. `without`: names of
    programs that this host does not have.
    """

    users: dict[str, str] = {}
    home_mb: int | None = None
    read_only_home: bool = False
    without: tuple[str, ...] = ()


class Programs(msgspec.Struct, frozen=True):
    """Where this machine has the programs that a lab needs."""

    ip: str
    sshd: str
    keygen: str


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One host: its place in the lab (the server has 1), and its share of the processor in cores."""

    name: str
    number: int
    cpu: float | None
    extras: Extras


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller asks its keeper for.

    `python`: the interpreter that the hosts shall use. `visible`: directories that it needs, shown to the hosts even
    where they lie in a home. `lasting`: whether the lab outlives the command that starts it.
    """

    lab: str
    lasting: bool
    hosts: tuple[HostPlan, ...]
    programs: Programs
    python: str
    visible: tuple[str, ...]


class LabPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A lab as it is being made: what of it could be left on this machine can be named from this alone."""

    id: str
    request: Request
    network: str
    network6: str | None
    started: float

    @property
    def veth(self) -> str:
        """The network interface by which this machine reaches the hosts."""
        return f"fl-{self.id}"

    def address(self, number: int) -> str:
        """Return the IPv4 address of a host, or of the CALLER."""
        return str(ipaddress.IPv4Network(self.network)[number])

    def address6(self, number: int) -> str | None:
        """Return the IPv6 address of a host, or of the CALLER; None on a machine without IPv6."""
        return None if self.network6 is None else str(ipaddress.IPv6Network(self.network6)[number])

    def mac(self, number: int) -> str:
        """Return the hardware address of a host: the same after a reboot, or its neighbours would not find it."""
        octets = (0x02, 0xF1, *bytes.fromhex(self.id)[:3], number)
        return ":".join(f"{octet:02x}" for octet in octets)


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """A host that runs: its addresses and its SSH server's key, in the form of known_hosts."""

    address: str
    address6: str | None
    key: str


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """A lab that runs."""

    plan: LabPlan
    hosts: dict[str, Reached]


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """A lab, or a host, that could not be started, or a verb that could not be done."""

    why: str


class Up(msgspec.Struct, frozen=True, kw_only=True, tag="up"):
    """The hosts that have been started, with the keys of their SSH servers."""

    keys: dict[str, str]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a lab's supervisor is told through its socket: switch a host's power."""

    host: str
    power: bool


Answer = Up | Failed
Report = Ready | Failed
