"""`deploy check`: what stands in the way of a run on a lab, or spoils it, with the fix beside it. Changes nothing.

All hosts at once: one look each, then each client tries the server's port. `deploy.checklist` writes it down.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.campaign import NO_TLS, listen_address
from deploy.differences import CONTROLLER, differences
from deploy.doorway import server_port
from deploy.errors import DeployError, HostError, HostKeyRefused
from deploy.facts import Finding, app_distributions, findings
from deploy.health import Examined, ailments, examine, inabilities
from deploy.remote.fanout import connect_each, try_out
from deploy.shaping import choose, is_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy.app import App
    from deploy.inventory import Host, Inventory
    from deploy.remote.protocol import Remote
    from deploy.shaping import Choice, Wish


@dataclass(frozen=True)
class Checked:
    """A lab after a look at all its hosts: what was seen of each, and findings by host or by CONTROLLER.

    `layers` says who would shape a client's link, where the playbook asks for links.
    """

    inventory: Inventory
    app: App
    seen: Mapping[str, Examined]
    findings: Mapping[str, tuple[Finding, ...]]
    layers: Mapping[str, Choice]

    @property
    def ok(self) -> bool:
        """Whether a run can start."""
        return not any(one.level == "error" for found in self.findings.values() for one in found)


def check_lab(
    inventory: Inventory,
    app: App,
    connect: Callable[[Host], Remote],
    *,
    tls: bool = True,
    wished: Mapping[str, Wish] | None = None,
) -> Checked:
    """Check all hosts at once; one that cannot be reached or looked at is a finding like any other.

    `tls` is the playbook's: doing without is a finding too. `wished` are the links that it asks for, by client.
    """
    wanted = wished or {}
    hosts = {host.name: host for host in inventory.hosts}
    found: dict[str, list[Finding]] = {name: [] for name in (CONTROLLER, *hosts)}
    if not tls:
        found[CONTROLLER].append(Finding("warning", "tls", NO_TLS, "leave transport.tls out of the playbook"))
    needed = app_distributions(app)
    address = inventory.server_address.rpartition(":")[0].strip("[]")
    with connect_each(inventory.hosts, connect) as reached:
        looked = try_out(
            reached.results,
            lambda remote: examine(
                hosts[remote.host], remote, address, needed, shaped=is_asked(wanted.get(remote.host))
            ),
        )
        remotes = {name: reached.results[name] for name in looked.results}
        tries = server_port(inventory, listen_address(inventory.server_address), remotes, looked.results)
    seen = looked.results
    for name, error in {**reached.failures, **looked.failures}.items():
        found[name].append(_unseen(hosts[name], error))
    for name, one in seen.items():
        found[name] += _alone(hosts[name], one, app, inventory)
        found[name] += inabilities(one) if hosts[name].role == "client" and not wanted else ()
    for more in (tries, differences(inventory, seen)):
        for name, some in more.items():
            found[name] += some
    layers = choose(inventory.clients, seen, wanted)
    for name, choice in layers.items():
        found[name] += choice.findings
    return Checked(inventory, app, seen, {name: tuple(some) for name, some in found.items()}, layers)


def _alone(host: Host, looked: Examined, app: App, inventory: Inventory) -> list[Finding]:
    """Return what a host's own look says, without regard to the others."""
    found = [*findings(looked.facts, app, host.python.manager), *ailments(looked, app)]
    if looked.facts.running:
        what = f"a campaign of ours runs there already ({looked.facts.running[0]})"
        found.append(Finding("error", "running", what, f"deploy down {inventory.file}"))
    return found


def _unseen(host: Host, error: DeployError) -> Finding:
    """Return the finding that a host could not be looked at; most such errors say themselves what would be right."""
    step, reason = (error.step, error.reason) if isinstance(error, HostError) else ("look", str(error))
    if isinstance(error, HostKeyRefused):
        return Finding("error", "host-key", reason, f"deploy trust {host.inventory}")
    port = ["-p", str(host.ssh.port)] if host.ssh.port else []
    key = ["-i", host.ssh.identity_file] if host.ssh.identity_file else []
    login = f"{host.ssh.user}@{host.host}" if host.ssh.user else host.host
    return Finding("error", step, reason, f"log in by hand to see more: {shlex.join(['ssh', *port, *key, login])}")
