"""Our queueing disciplines and filters on one interface: put there, changed, read, and taken away without a trace.

What goes out: a root `prio` whose first three bands are for everybody else, and the last for the experiment's packets,
which a filter sends there: tbf, in it netem. What comes in: the `ingress` hook, a filter, and an IFB device of our own
with the same two. Without the filters, nothing passes our part: that is what a link that is natural for a while has.

All that is needed to put everything back lies in the kernel: handles and a device name that are ours, and what was
there before as the device's alias. So `remove` is the same for a link that ends and for what a killed keeper left.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flclient.link import tc
from flclient.link.errors import LinkError
from flclient.link.prior import Prior, prior_of
from flclient.link.tools import load_ifb
from flcommon.link import NATURAL, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from flclient.link.target import Interface, Target
    from flclient.link.tc import Qdisc
    from flclient.link.tools import Tools

_OURS = f"{tc.ROOT}4"
_INGRESS = "ffff:"
_LED = "action mirred egress redirect dev"
_DEVICES = Path("/sys/class/net")
_PREFERENCES = (0xF1AB, 0xF1AC)


@dataclass(frozen=True)
class Counters:
    """What netem has done since it was made."""

    bytes: int = 0
    packets: int = 0
    drops: int = 0


@dataclass
class Side:
    """One direction: the device and place of its tbf, where its filters hang, and what it is like now."""

    up: bool
    device: str
    place: tuple[str, ...]
    hook: str
    shaper: str = tc.SHAPERS[0]
    way: Way = NATURAL
    has_table: bool = False

    def made(self, interface: Interface) -> list[str]:
        """Return the lines of tc that make tbf and netem, which do nothing yet."""
        return [
            tc.line("qdisc add dev", self.device, self.place, "handle", tc.CUTTER, tc.cutter(NATURAL, interface.mtu)),
            self._netem("add", NATURAL, interface),
        ]

    def changed(self, way: Way, target: Target) -> list[str]:
        """Return the lines that make the link so, first the disciplines, then who passes them; remembers it."""
        interface, lines = target.interface, []
        if not way.natural:
            cutter = tc.cutter(way, interface.mtu)
            lines.append(tc.line("qdisc change dev", self.device, self.place, "handle", tc.CUTTER, cutter))
            lines.append(self._reshaped(way, interface))
        if way.natural != self.way.natural:
            lines += self._filters(target, add=not way.natural)
        self.way = way
        return lines

    def _reshaped(self, way: Way, interface: Interface) -> str:
        """Change netem as it is, with all that is under way; only to forget a table it must be made anew."""
        anew = self.has_table and way.jitter_ms > 0 and not tc.needs_table(way)
        self.has_table = tc.needs_table(way) or (self.has_table and not anew)
        if anew:
            self.shaper = next(handle for handle in tc.SHAPERS if handle != self.shaper)
        return self._netem("replace" if anew else "change", way, interface)

    def _netem(self, verb: str, way: Way, interface: Interface) -> str:
        parent = ("parent", f"{tc.CUTTER}1", "handle", self.shaper)
        return tc.line("qdisc", verb, "dev", self.device, parent, tc.netem(way, interface.mbit))

    def _filters(self, target: Target, *, add: bool) -> list[str]:
        name = target.interface.name
        if not add:
            used = sorted({tc.preference(address) for address in target.addresses})
            return [tc.line("filter del dev", name, "parent", self.hook, "pref", f"{number}") for number in used]
        led = ["flowid", _OURS] if self.up else [_LED, self.device]
        return [
            tc.line("filter add dev", name, "parent", self.hook, tc.match(address, target.port, up=self.up), led)
            for address in target.addresses
        ]


class Rules:
    """The shaping of one target; every method raises LinkError."""

    def __init__(self, tools: Tools, target: Target) -> None:
        self._tools, self._target = tools, target
        self._sides = self._new_sides()

    def check(self) -> Prior:
        """Make our own device, and on it all that is made of a kernel here; touches nothing of the host's.

        Returns what the interface has, having proved that it can be put back.
        """
        interface = self._target.interface
        prior = prior_of(interface.name, self._tools.qdiscs(interface.name))
        make_ifb(self._tools, interface, prior)
        self._tools.batch(self._tried())
        if prior.words:
            self._rehearse(prior)
        return prior

    def install(self) -> None:
        """Put everything there but the filters: the link stays natural; on an error all is taken away again."""
        interface = self._target.interface
        self._sides = self._new_sides()
        try:
            prior = self.check()
            root = ("root handle", tc.ROOT, "prio bands 4 priomap", prior.bands)
            self._tools.batch(
                [
                    *self._sides[1].made(interface),
                    tc.line("qdisc replace dev", interface.name, *root),
                    *(_children(interface, prior)),
                    *self._sides[0].made(interface),
                    tc.line("qdisc add dev", interface.name, "ingress"),
                ]
            )
        except LinkError as error:
            raise _with_all(error, remove(self._tools, interface)) from error

    def set(self, up: Way, down: Way) -> dict[str, dict[str, float | str] | None]:
        """Make the link so, and return what the kernel says that it is: `up` and `down`, None where it is natural."""
        ways = (up, down)
        lines = [one for side, way in zip(self._sides, ways, strict=True) for one in side.changed(way, self._target)]
        found = self._look(lines)
        return {
            "up" if side.up else "down": None if side.way.natural else tc.applied(row.options)
            for side, row in zip(self._sides, found, strict=True)
        }

    def counters(self) -> tuple[Counters, Counters]:
        """Return what was done to what goes up, and down, since `install`, or since a distribution was dropped."""
        up, down = (Counters(row.bytes, row.packets, row.drops) for row in self._look([]))
        return up, down

    def about(self) -> dict[str, str]:
        """Say in words what is shaped, and where."""
        target = self._target
        return {
            "layer": "kernel (tc netem)",
            "interface": target.interface.name,
            "line_mbit": f"{target.interface.mbit:g}",
            "packets": f"TCP to and from {', '.join(target.addresses)} port {target.port}",
            "up": f"{target.interface.name} {_OURS}",
            "down": target.interface.ifb,
        }

    def _new_sides(self) -> tuple[Side, Side]:
        interface = self._target.interface
        return (
            Side(up=True, device=interface.name, place=("parent", _OURS), hook=tc.ROOT),
            Side(up=False, device=interface.ifb, place=("root",), hook=_INGRESS),
        )

    def _look(self, lines: list[str]) -> list[Qdisc]:
        """Run lines of tc, and return netem of both sides as it is then."""
        shown = [tc.line("qdisc show dev", side.device) for side in self._sides]
        answers = self._tools.batch([*lines, *shown])
        found = []
        for side, rows in zip(self._sides, answers, strict=True):
            mine = [row for row in rows if row.kind == "netem" and row.handle == side.shaper]
            if not mine:
                raise LinkError(f"{side.device}: somebody has removed what shapes the link")
            found += mine
        return found

    def _tried(self) -> list[str]:
        """Return the lines that use, on our own device, all that will be needed, and then remove it."""
        device, target = self._target.interface.ifb, self._target
        hook = tc.line("filter add dev", device, "parent", _INGRESS)
        return [
            *self._sides[1].made(target.interface),
            tc.line("qdisc del dev", device, "root"),
            tc.line("qdisc add dev", device, "root handle", tc.ROOT, "prio bands 4"),
            tc.line("qdisc del dev", device, "root"),
            tc.line("qdisc add dev", device, "ingress"),
            *(tc.line(hook, tc.match(each, target.port, up=False), _LED, "lo") for each in target.addresses),
            tc.line("qdisc del dev", device, "ingress"),
        ]

    def _rehearse(self, prior: Prior) -> None:
        """Make what the interface has on our own device, and compare: LinkError if it could not be put back exactly."""
        interface = self._target.interface
        shown = tc.line("qdisc show dev", interface.ifb)
        before = [row for row in self._tools.qdiscs(interface.name) if row.root]
        (again,) = self._tools.batch([tc.line("qdisc add dev", interface.ifb, "root", prior.words), shown])
        same = [row.options for row in before] == [row.options for row in again if row.root]
        if not same or _in_words(self._tools, interface.name) != _in_words(self._tools, interface.ifb):
            raise LinkError(
                f"{interface.name} has a queueing discipline ({before[0].kind} {before[0].handle}) with options that"
                f" could not be put back: remove it (tc qdisc del dev {interface.name} root), or shape this client by"
                " the relay"
            )
        self._tools.batch([tc.line("qdisc del dev", interface.ifb, "root")])


def make_ifb(tools: Tools, interface: Interface, prior: Prior) -> None:
    """Make our own device, with what the interface had before as its alias."""
    load_ifb()
    tools.change("link", "add", "name", interface.ifb, "type", "ifb")
    if prior.words:  # not at once: Linux drops an alias that comes with a new device
        tools.change("link", "set", "dev", interface.ifb, "alias", prior.words)
        if (_DEVICES / interface.ifb / "ifalias").read_text().strip() != prior.words:
            raise LinkError(f"{interface.ifb} does not keep what {interface.name} had before")
    with suppress(OSError):  # a kernel without IPv6; with it, the device would send its neighbours greetings
        Path(f"/proc/sys/net/ipv6/conf/{interface.ifb}/disable_ipv6").write_text("1")
    tools.change("link", "set", "dev", interface.ifb, "up")


def remove(tools: Tools, interface: Interface) -> dict[str, str | None]:
    """Take away all that is ours on an interface, the last thing first; goes on after what fails.

    Returns what was done: what it was, and why it failed, or None. Nothing that is not ours is touched.
    """
    done: dict[str, str | None] = {}
    alias = _DEVICES / interface.ifb / "ifalias"
    has_ifb = alias.exists()
    rows = tools.qdiscs(interface.name) if (_DEVICES / interface.name).exists() else []
    if any(row.kind == "ingress" for row in rows):
        lines = _ingress_undone(tools, interface, has_ifb=has_ifb)
        if lines:
            done[f"{interface.name}: ingress"] = _attempt(lambda: tools.batch(lines))
    if any(row.root and row.handle == tc.ROOT and row.kind == "prio" for row in rows):
        words = alias.read_text().strip() if has_ifb else ""
        verb = ("replace", words) if words else ("del", "")
        root = tc.line("qdisc", verb[0], "dev", interface.name, "root", verb[1])
        done[f"{interface.name}: root {tc.ROOT}"] = _attempt(lambda: tools.batch([root]))
    if has_ifb and not any(done.values()):  # what lies in its alias is needed as long as something failed
        done[interface.ifb] = _attempt(lambda: tools.change("link", "del", "dev", interface.ifb))
    return done


def _ingress_undone(tools: Tools, interface: Interface, *, has_ifb: bool) -> list[str]:
    """Return the lines that remove the hook for what comes in, or only our filters if others hang there too."""
    shown = tools.filters(interface.name, _INGRESS).splitlines()
    numbers = {words[words.index("pref") + 1] for words in map(str.split, shown) if "pref" in words}
    ours = numbers & {f"{number}" for number in _PREFERENCES}
    if numbers == ours and (ours or has_ifb):
        return [tc.line("qdisc del dev", interface.name, "ingress")]
    return [tc.line("filter del dev", interface.name, "parent", _INGRESS, "pref", one) for one in sorted(ours)]


def _attempt(what: Callable[[], object]) -> str | None:
    try:
        what()
    except LinkError as error:
        return str(error)
    return None


def _with_all(error: LinkError, undone: dict[str, str | None]) -> LinkError:
    """Keep the first error, and add what could not be undone."""
    failed = [f"{what} could not be put back: {why}" for what, why in undone.items() if why]
    return LinkError("; ".join([str(error), *failed]))


def _children(interface: Interface, prior: Prior) -> list[str]:
    return [tc.line("qdisc add dev", interface.name, "parent", f"{tc.ROOT}1", prior.child)] if prior.child else []


def _in_words(tools: Tools, device: str) -> list[str]:
    """Return a root as tc tells it to people, without how many refer to it, which depends on the device."""
    words = next(text.split() for text in tools.plain(device).splitlines() if " root " in text)
    return [word for before, word in zip(["", *words], words, strict=False) if before != "refcnt"]
