"""The hosts of a lab as a command holds them: connected, looked at, prepared; and which of them take part.

A host that fails before anything is started is left out if the user said how many clients are enough; else the error
names every host that failed.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploy.authority import request_of, sharing_a_key
from deploy.bundle import code_directory, make_bundle, push
from deploy.environment.prepare import prepare_python
from deploy.errors import DeployError, HostError, InputError, LabError, together
from deploy.facts import Facts, app_distributions, findings, look
from deploy.health import Examined, Health, examine
from deploy.keepers import obstacle, unshape
from deploy.remote.fanout import NARROW, WIDE, connect_each, try_out
from deploy.shaping import choose, is_asked, layers
from deploy.worker import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deploy.app import App
    from deploy.bundle import Bundle
    from deploy.environment.kit import Kit
    from deploy.inventory import Host, Inventory
    from deploy.remote.protocol import Remote
    from deploy.shaping import Wish
    from deploy.view import View
    from flcommon.job import Shaping

R = TypeVar("R")


@dataclass
class Crew:
    """Who takes part. `min_clients`: with how many clients to go on when hosts fail; None: only with all."""

    inventory: Inventory
    remotes: Mapping[str, Remote]
    min_clients: int | None
    view: View
    facts: dict[str, Facts] = field(default_factory=dict)
    wishes: dict[str, Wish] = field(default_factory=dict)
    shaping: dict[str, Shaping] = field(default_factory=dict)
    absent: dict[str, DeployError] = field(default_factory=dict)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts that take part, the server first."""
        return tuple(host for host in self.inventory.hosts if host.name not in self.absent)

    @property
    def clients(self) -> tuple[str, ...]:
        """The names of the clients that take part, in the order of the inventory."""
        return tuple(host.name for host in self.hosts if host.role == "client")

    def each(self, work: Callable[[Host, Remote], R], *, width: int = WIDE, so: str = "") -> dict[str, R]:
        """Do something on all hosts at once; those that fail are left out, or the error of all is raised.

        `so` is what the error says after all hosts: the way out, if they share one.
        """
        hosts = {host.name: host for host in self.hosts}
        outcome = try_out(hosts, lambda host: work(host, self.remotes[host.name]), width=width)
        self.leave_out(outcome.failures, so)
        return outcome.results

    def leave_out(self, failures: Mapping[str, DeployError], so: str = "") -> None:
        """Go on without these hosts; raises DeployError that names all of them where that cannot be."""
        self.absent.update(failures)
        enough = self.min_clients is not None and len(self.clients) >= self.min_clients
        if failures and (not enough or self.inventory.server.name in failures):
            raise self._too_few(so)
        for name, error in failures.items():
            self.view.host(name, "takes no part")
            self.view.note(f"going on without {name}: {error}")

    def look(self, app: App, wished: Mapping[str, Wish] | None = None) -> None:
        """Look at all hosts: what stands in the way of a run there makes a host fail.

        `wished` are the links that the playbook asks for, by client: then `shaping` says by which layer they come.
        """
        needed, wanted = app_distributions(app), wished or {}
        address = self.inventory.server_address.rpartition(":")[0].strip("[]")

        def looked(host: Host, remote: Remote) -> Examined:
            if is_asked(wanted.get(host.name)):
                seen = examine(host, remote, address, needed, shaped=True)
            else:
                seen = Examined(look(host, remote, needed), Health(), None)
            found = seen.facts
            wrong = [one for one in findings(found, app, host.python.manager) if one.level == "error"]
            if wrong:
                raise together({one.what: HostError(host.name, "look", f"{one.what}; {one.fix}") for one in wrong})
            self.view.host(host.name, f"{found.system} {found.machine}, Python {found.python_version or 'to come'}")
            return seen

        seen = self.each(looked)
        self.facts.update({name: one.facts for name, one in seen.items()})
        self._choose_layers(seen, wanted)

    def _choose_layers(self, seen: Mapping[str, Examined], wanted: Mapping[str, Wish]) -> None:
        """Choose who shapes each client's link; a client whose link nobody can play fails."""
        self.wishes.update(wanted)
        chosen = choose(self.hosts, seen, wanted)
        shaping, failures = layers(chosen)
        self.leave_out(failures)
        self.shaping.update(shaping)
        for name, own in shaping.items():
            self.view.host(name, f"link by {own.layer}: {chosen[name].why}")

    def make_way(self, *, replace: bool) -> None:
        """Refuse hosts on which a campaign of ours runs, as two at once would measure each other; or end it there."""

        def free(host: Host, remote: Remote) -> None:
            running = self.facts[host.name].running
            if running and not replace:
                raise HostError(host.name, "look", f"a campaign runs there already ({running[0]})")
            for directory in running:
                stop(remote, self.facts[host.name], directory)
                self.view.note(f"{host.name}: stopped {directory}")

        self.each(free, so=self._ways_out)

    def prepare_python(self, kit: Kit) -> None:
        """See to it that every host has the Python that its inventory entry asks for."""

        def prepared(host: Host, remote: Remote) -> Facts:
            say = functools.partial(self.view.host, host.name)
            return prepare_python(host, remote, self.facts[host.name], kit, say)

        self.facts.update(self.each(prepared))

    def push_code(self, app: App) -> Bundle:
        """Push the code of this installation, and an app's that is not part of it, where it is missing."""
        bundle = make_bundle(files=app.files())

        def pushed(host: Host, remote: Remote) -> None:
            new = push(remote, self.facts[host.name], bundle)
            self.view.host(host.name, f"code {bundle.digest} {'pushed' if new else 'is there'}")

        self.each(pushed, width=NARROW)
        return bundle

    def prepare_links(self, bundle: Bundle) -> None:
        """Take off links that a killed campaign has left, and let each kernel that is to shape one try it.

        One that cannot leaves it to a relay, if the playbook leaves the choice.
        """

        def tried(host: Host, remote: Remote) -> str:
            facts = self.facts[host.name]
            code = code_directory(facts, bundle)
            for left in unshape(remote, facts, code):
                self.view.note(f"{host.name}: {left}")
            own = self.shaping.get(host.name)
            if own is None or own.layer != "kernel":
                return ""
            why = obstacle(remote, facts, code, own, self.inventory.server_address)
            if why and not self.wishes[host.name].is_free:
                raise HostError(host.name, "link", why)
            return why

        for name, why in self.each(tried).items():
            if why:
                self.shaping[name] = msgspec.structs.replace(self.shaping[name], layer="relay")
                self.view.note(f"{name}: its link is left to a relay: {why}")

    def prepare_keys(self, bundle: Bundle) -> None:
        """See to it that every host has a private key, and that its certificate request is among its facts."""

        def prepared(host: Host, remote: Remote) -> Facts:
            facts = self.facts[host.name]
            request = request_of(remote, facts, code_directory(facts, bundle))
            if request != facts.csr:
                self.view.host(host.name, "private key made")
            return msgspec.structs.replace(facts, csr=request)

        self.facts.update(self.each(prepared))
        for names in sharing_a_key(self.hosts, self.facts):
            self.view.note(
                f"{', '.join(names)} have the same private key, and can pose as each other: unless they are one"
                " machine, delete the directory keys in the work directory of all but one"
            )

    @property
    def _ways_out(self) -> str:
        file = self.inventory.file
        return f"watch it with: deploy attach {file}; end it with: deploy stop {file}, or with up --replace"

    def _too_few(self, so: str) -> DeployError:
        if self.min_clients is not None and self.inventory.server.name not in self.absent:
            everyone = len(self.inventory.clients)
            so = f"{len(self.clients)} of {everyone} clients are left, fewer than --min-clients {self.min_clients}"
        return LabError(self.absent, so) if so else together(self.absent)


@contextmanager
def assembled(
    inventory: Inventory, connect: Callable[[Host], Remote], view: View, min_clients: int | None = None
) -> Iterator[Crew]:
    """Connect to all hosts for the length of a with-block; raises DeployError if too few can be reached."""
    if min_clients is not None and min_clients > len(inventory.clients):
        few = f"--min-clients {min_clients} asks for more clients than the {len(inventory.clients)} of this lab"
        raise InputError(inventory.file, few)
    with connect_each(inventory.hosts, connect) as outcome:
        crew = Crew(inventory, outcome.results, min_clients, view)
        crew.leave_out(outcome.failures)
        yield crew
