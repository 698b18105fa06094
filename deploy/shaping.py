"""Which layer shapes each client's link: what the playbook wishes, and what the client's host can do.

`auto` is the kernel where all that it needs is there, else a relay, which needs nothing. What cannot be had is a
finding before anything has started; nothing is shaped here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy.convert import unknown
from deploy.errors import HostError
from deploy.facts import Finding
from deploy.health import lacks, note
from deploy.links import assigned
from flcommon.job import Shaping
from flcommon.link import OUR_HANDLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploy.health import Examined, Traffic
    from deploy.inventory import Host
    from deploy.links import LayerWish, Rule
    from deploy.playbook import Playbook
    from flcommon.link import Link

PUT_BACK = ("bfifo", "fq", "fq_codel", "pfifo", "sfq")
"""Queueing disciplines of others that the kernel layer makes again as they were (`flclient.link.kernel`)."""


@dataclass(frozen=True)
class Wish:
    """What one client's link may ever be, over all conditions, and who shall shape it."""

    layer: LayerWish
    links: tuple[Link, ...]

    @property
    def kernel_only(self) -> tuple[str, ...]:
        """Return the keys in use that a relay cannot play."""
        return tuple(dict.fromkeys(key for link in self.links for key in link.kernel_only))

    @property
    def is_free(self) -> bool:
        """Whether either layer will do."""
        return self.layer == "auto" and not self.kernel_only


@dataclass(frozen=True)
class Choice:
    """The layer of a client (none if its wish cannot be fulfilled), why it is this one, and what is wrong."""

    shaping: Shaping | None
    why: str
    findings: tuple[Finding, ...] = ()


def client_rules(playbook: Playbook, clients: Mapping[str, dict[str, str]]) -> dict[str, Rule]:
    """Return the rule of each client that has one; raises InputError if the playbook's rules do not fit the lab.

    `clients` are the labels of each. A link of the playbook that rules replace for every client is an error too: it
    would do nothing.
    """
    found = assigned(playbook.hosts, clients)
    common = any(condition.settings.link is not None for condition in playbook.conditions)
    if common and len(found) == len(clients):
        raise playbook.hosts[0].place.error(
            "the playbook's own link is that of no client: rules replace it for all of them; leave out the link"
            " (and what is swept of it), or a rule"
        )
    return found


def wishes(playbook: Playbook, clients: Sequence[Host]) -> dict[str, Wish]:
    """Return what is wished for each client for which any condition asks for a link; raises InputError."""
    found = client_rules(playbook, {host.name: host.labels for host in clients})
    common = [one.settings.link for one in playbook.conditions]
    asked = {host.name: [found[host.name].asked] if host.name in found else common for host in clients}
    return {
        name: Wish(layer=there[0].layer, links=tuple(one.link for one in there))
        for name, some in asked.items()
        if (there := [one for one in some if one is not None])
    }


def choose(hosts: Sequence[Host], seen: Mapping[str, Examined], wanted: Mapping[str, Wish]) -> dict[str, Choice]:
    """Return the layer of each client that has a wish and was looked at; `seen` are all hosts, the server too."""
    logins = Counter(one.facts.stack for one in seen.values())
    return {
        host.name: _choice(host, one, wanted[host.name], shared=bool(one.facts.stack) and logins[one.facts.stack] > 1)
        for host in hosts
        if host.name in wanted and (one := seen.get(host.name)) is not None
    }


def is_asked(wish: Wish | None) -> bool:
    """Whether a host's kernel has to be asked what it can do."""
    return wish is not None and wish.layer != "relay"


def layers(chosen: Mapping[str, Choice]) -> tuple[dict[str, Shaping], dict[str, HostError]]:
    """Return how each client's link is shaped, and the errors of those for which that cannot be."""
    shaping = {name: one.shaping for name, one in chosen.items() if one.shaping is not None}
    wrong = {name: [found for found in one.findings if found.level == "error"] for name, one in chosen.items()}
    errors = {
        name: HostError(name, "look", "; ".join(f"{one.what} (what helps: {one.fix})" for one in some))
        for name, some in wrong.items()
        if some
    }
    return shaping, errors


def _choice(host: Host, seen: Examined, wish: Wish, *, shared: bool) -> Choice:
    """Return the layer of one client."""
    there = seen.facts.interfaces
    if host.interface and there and host.interface not in there:
        what = f"there is no interface {host.interface!r}{unknown(host.interface, there, 'interfaces')}"
        fix = f"correct clients.{host.name}.interface in {host.inventory}, or leave it out for that of the route"
        return Choice(None, "its interface is not there", (Finding("error", "interface", what, fix),))
    kernel = Shaping(layer="kernel", interface=host.interface)
    if wish.layer == "relay":
        return Choice(Shaping(layer="relay", interface=host.interface), "as the playbook says")
    obstacles = tuple(_obstacles(host, seen, shared=shared))
    if not obstacles:
        return Choice(kernel, "as the playbook says" if wish.layer == "kernel" else "the host has all that it needs")
    if wish.layer == "kernel" or wish.kernel_only:
        return Choice(None, obstacles[0].what, tuple(_forced(wish, one) for one in obstacles))
    notes = tuple(note(one) for one in obstacles)
    return Choice(Shaping(layer="relay", interface=host.interface), obstacles[0].what, notes)


def _forced(wish: Wish, obstacle: Finding) -> Finding:
    """Return an obstacle as the error that it is if there is no way around the kernel."""
    if wish.layer == "kernel":
        why, other = "the playbook asks for layer: kernel", "layer: auto or relay in the playbook"
    else:
        keys = ", ".join(wish.kernel_only)
        why, other = f"only the kernel can play {keys}", f"leave {keys} out of this client's link"
    return msgspec.structs.replace(
        obstacle, what=f"{why}, and it cannot be had here: {obstacle.what}", fix=f"{obstacle.fix}; or {other}"
    )


def _obstacles(host: Host, seen: Examined, *, shared: bool) -> Iterator[Finding]:
    """Yield what keeps the kernel of a host from shaping; some of it leaves no room for more."""
    traffic = seen.health.traffic
    if seen.facts.system != "Linux":
        yield _obstacle("system", f"{seen.facts.system} is not Linux", "use a host with Linux")
    elif traffic is None:
        why = "its kernel did not answer" if seen.facts.python else "there is no Python yet to ask its kernel with"
        yield _obstacle("kernel", why, "install Python 3.11 or later there, and see: sudo tc qdisc show")
    elif shared or traffic.interface == "lo":
        what = "it shares its interfaces with another host of the lab, and their links would be mixed up"
        yield _obstacle("shared", what, "give every host a machine of its own, or try provider: netns")
    else:
        if host.interface and seen.health.interface not in ("", host.interface):
            what = f"the server is reached over {seen.health.interface}, not over {host.interface}"
            yield _obstacle("route", what, f"leave out clients.{host.name}.interface, or change the route")
        yield from _lacking(seen, traffic)
        yield from _in_the_way(traffic)


def _lacking(seen: Examined, traffic: Traffic) -> Iterator[Finding]:
    """Yield what is not there."""
    known = {lack.code: lack for lack in lacks(seen)}
    if traffic.missing:
        names = " and ".join(traffic.missing)
        verb = "are" if len(traffic.missing) > 1 else "is"
        yield msgspec.structs.replace(known["tc"], what=f"{names} {verb} not installed")
    if not traffic.root:
        yield known["sudo"]
    if traffic.refused:
        fix = known["netem"].fix
        yield _obstacle("netem", f"the kernel refuses {' '.join(traffic.refused.split())}", fix)
    elif traffic.refused is None and traffic.root and not traffic.missing and not seen.health.netem:
        unseen = msgspec.structs.replace(known["netem"], what="it cannot be seen whether the kernel has sch_netem")
        yield unseen if seen.health.netem is None else known["netem"]


def _in_the_way(traffic: Traffic) -> Iterator[Finding]:
    """Yield why this interface must not be touched."""
    if not traffic.interface:
        yield _obstacle("route", "there is no route to the server", "say in the inventory which interface is meant")
    theirs = [tuple(told.split()) for told in traffic.qdiscs]
    is_simple = len(theirs) == 1 and theirs[0][0] in PUT_BACK and theirs[0][-1] == "root"
    if theirs and not is_simple and not any(handle == OUR_HANDLE for _, handle, *_ in theirs):
        kind, handle = next((one for one in theirs if one[0] not in PUT_BACK), theirs[-1])[:2]
        what = f"{traffic.interface} has a {kind} ({handle}) of somebody else, which must not be destroyed"
        place = kind if kind in ("ingress", "clsact") else "root"
        yield _obstacle("qdisc", what, f"if it is not needed: sudo tc qdisc del dev {traffic.interface} {place}")


def _obstacle(code: str, what: str, fix: str) -> Finding:
    return Finding("error", code, what, fix)
