"""`deploy down`: ends every process of the toolkit that runs on a lab's hosts, of whatever campaign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.facts import look_at_ours
from deploy.remote.fanout import connect_all, fan_out
from deploy.worker import running, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.inventory import Host, Inventory
    from deploy.remote.protocol import Remote


def take_down(inventory: Inventory, connect: Callable[[Host], Remote]) -> list[str]:
    """Stop what runs, and return one sentence per host; raises DeployError."""
    hosts = {host.name: host for host in inventory.hosts}
    with connect_all(inventory.hosts, connect) as remotes:
        done = fan_out(remotes, lambda remote: list(_stop(hosts[remote.host], remote)))
    return [f"{name}: {', '.join(found) if found else 'nothing was running'}" for name, found in done.items()]


def _stop(host: Host, remote: Remote) -> Iterator[str]:
    facts = look_at_ours(host, remote)
    for directory in running(remote, facts):
        stop(remote, facts, directory)
        yield f"stopped {directory}"
