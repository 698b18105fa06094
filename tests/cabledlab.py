"""Hosts of `provider: netns` that reach one another over cables of known delay, as an inventory of a real lab.

The experiment's traffic goes over the cables. SSH goes beside them, over the lab's own bridge, or through them too.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploy.providers.netns import links
from deploy.providers.netns.lab import netns_lab
from deploy.providers.netns.plan import SERVER_PORT
from deploy.remote.ssh import connect
from tests.cable import Cable, carried
from tests.cableplan import End

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Network

    from deploy.inventory import Host, Inventory, NetnsLab
    from tests.cable import Both

INTERFACE = "cable0"
"""On each host."""
HERE = f"cable-{os.getpid()}"
"""On this machine, where SSH goes through the cables too."""


@dataclass(frozen=True)
class CabledLab:
    """A lab of which the server is the cable's hub, and client n its end n; `inventory` is a file for `deploy`.

    `cable` can change delays, fail, and tell what it really did. `controller` is the end of this machine, None where
    SSH goes beside the cables.
    """

    inventory: Path
    cable: Cable
    controller: int | None


def namespace_of(host: Host) -> str:
    """Return the file of a host's network namespace: that of any process in it."""
    remote = connect(host)
    try:
        link = remote.read(["readlink", "/proc/self/ns/net"], step="look").strip()
    finally:
        remote.close()
    for place in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            if str(place.readlink()) == link:
                return str(place)
        except OSError:  # it has ended
            continue
    raise AssertionError(f"no process of this machine is in {host.name}'s {link}")


@contextmanager
def laid(lab: NetnsLab, boths: Sequence[Both], place: Path, *, through: bool) -> Iterator[CabledLab]:
    """Start a lab, and lay a cable to each client; below `place` is what SSH needs to know of it."""
    assert len(boths) == lab.clients
    with ExitStack() as stack:
        hosts = stack.enter_context(netns_lab(lab))
        network = links.free_network(links.routes_here("ip"))
        ends = [End(address=str(network[1]), interface=INTERFACE, namespace=namespace_of(hosts.server))]
        for number, (host, both) in enumerate(zip(hosts.clients, boths, strict=True), 2):
            address = str(network[number])
            end = End(address=address, interface=INTERFACE, namespace=namespace_of(host), up=both.up, down=both.down)
            ends.append(end)
        if through:
            ends.append(End(address=str(network[254]), interface=HERE, namespace="/proc/self/ns/net"))
        cable = stack.enter_context(carried(ends, network.prefixlen))
        file = place / "inventory.yaml"
        file.write_bytes(msgspec.yaml.encode(written(hosts, network, place, through=through)))
        yield CabledLab(file, cable, len(boths) + 1 if through else None)


def written(hosts: Inventory, network: IPv4Network, place: Path, *, through: bool) -> dict:
    """Return the inventory as a file has it."""
    ssh = hosts.server.ssh
    addresses = {
        host.name: str(network[number]) if through else host.host for number, host in enumerate(hosts.hosts, 1)
    }
    lines = (line.split(maxsplit=1) for line in Path(ssh.known_hosts or "").read_text().splitlines())
    keys = {name: key for names, key in lines for name in names.split(",")}
    known_hosts = place / "known_hosts"
    known_hosts.write_text("".join(f"{addresses[host.name]} {keys[host.host]}\n" for host in hosts.hosts))
    return {
        "lab": hosts.lab,
        "ssh": {"user": ssh.user, "identity_file": ssh.identity_file, "known_hosts": str(known_hosts)},
        "python": {"manager": "existing", "path": hosts.server.python.path},
        "server": {"host": addresses[hosts.server.name], "address": f"{network[1]}:{SERVER_PORT}"},
        "clients": {host.name: {"host": addresses[host.name]} for host in hosts.clients},
    }
