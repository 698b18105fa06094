"""The links of a playbook: what a section `link` may say, and which clients a rule of `hosts` is for.

Parsed into the types of `flcommon.link`; every mistake is an InputError at the line that makes it. It shapes nothing,
and does not know what the hosts can do: that is `deploy.shaping`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from deploy.convert import convert, unknown
from deploy.inventory import Name
from flcommon.link import NATURAL, Link, Seconds, State, Step, Steps, Switching, Way

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deploy.errors import InputError
    from deploy.yamlfile import Node
    from flcommon.link import Course

LayerWish = Literal["auto", "kernel", "relay"]
SHORTEST_S = 0.1
"""No layer can be relied on to follow changes that come faster."""
WAY = Way.__struct_fields__
SIDES = ("up", "down")
SWEPT = ("delay_ms", "jitter_ms", "loss_pct", "rate_mbit")
SETTABLE = tuple(f"{place}.{key}" for place in ("link", *(f"link.{side}" for side in SIDES)) for key in SWEPT)
"""What a sweep may vary of a link: both directions at once, or one."""
NAME = "name"
"""What `match` may say beside labels: a client's name."""

_COURSES = ("steps", "trace", "switching")
_Mean = Annotated[float, msgspec.Meta(ge=SHORTEST_S, le=86_400)]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A section `link`: what is injected, and who shall shape it."""

    link: Link
    layer: LayerWish = "auto"

    @property
    def longest_round_trip_s(self) -> float:
        """What its delays add to a round trip at most, in seconds, but for the tails of distributions."""
        course = self.link.course
        parts = course.steps if isinstance(course, Steps) else course.states.values()
        return max(sum(way.delay_ms + way.jitter_ms for way in (part.up, part.down)) for part in parts) / 1000


@dataclass(frozen=True)
class Rule:
    """One entry of `hosts`: the clients that match have this link, in place of the playbook's."""

    place: Node
    match: dict[str, str]
    asked: Asked

    def fits(self, name: str, labels: dict[str, str]) -> bool:
        """Whether all that `match` says is true of a client."""
        return all((name if key == NAME else labels.get(key)) == value for key, value in self.match.items())


class _Layered(msgspec.Struct, frozen=True):
    layer: LayerWish = "auto"


class _At(msgspec.Struct, frozen=True):
    at_s: Seconds
    state: Name = ""


class _Lasting(msgspec.Struct, frozen=True):
    mean_s: _Mean


class _RuleEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    match: dict[Name, str]
    link: Any


# --- the section `link` ----------------------------------------------------------------------------------------------


def asked(section: Node) -> Asked:
    """Return a section `link`, whose trace has been read in; raises InputError."""
    _refuse_unknown(section, ("layer", *WAY, *SIDES, *_COURSES))
    layer = convert(_only(section, ("layer",)), _Layered).layer
    _refuse_two_forms(section)
    link = Link(course=_course(section))
    if layer == "relay" and link.kernel_only:
        key = link.kernel_only[0]
        raise section.entries()["layer"].error(
            f"a relay, which ends TCP, cannot play {key}: leave {key} out, or give layer: kernel or auto"
        )
    return Asked(link=link, layer=layer)


def _course(section: Node) -> Course:
    entries = section.entries()
    if "switching" in entries:
        return _switching(entries["switching"])
    if "steps" in entries:
        return _steps(entries["steps"])
    up, down = _ways(section)
    return Steps(steps=(Step(up=up, down=down),))


def _refuse_two_forms(section: Node) -> None:
    """Raise InputError for a link that is said in several ways, or in none."""
    entries = section.entries()
    forms = [[key for key in form if key in entries] for form in (WAY, SIDES, *((key,) for key in _COURSES))]
    given = [form for form in forms if form]
    if not given:
        raise section.error(
            "asks for nothing: give delay_ms, rate_mbit, loss_pct, …, or up and down, steps, a trace or switching"
            " (delay_ms: 0 for a link that is shaped like the others but natural)"
        )
    if len(given) > 1:
        raise _twice(section, given[0][0], given[1][0])


def _twice(node: Node, first: str, second: str) -> InputError:
    """Return the error that two entries say the same thing, at the one that came last: in the sweep, or in the file."""
    entries = node.entries()
    late = max((entries[first], entries[second]), key=lambda entry: (entry.key.startswith("sweep."), entry.line))
    both = "gives both directions" if second in SIDES else "gives the whole link"
    return late.error(
        f"the same thing is said twice: {first if second in SIDES else second} {both},"
        f" and there is {second if second in SIDES else first} too"
    )


def _ways(node: Node) -> tuple[Way, Way]:
    """Return up and down of a mapping that says both at once, or one by one (the one left out is natural)."""
    entries = node.entries()
    flat, sides = [key for key in WAY if key in entries], [key for key in SIDES if key in entries]
    if flat and sides:
        raise _twice(node, flat[0], sides[0])
    if sides:
        up, down = (convert(entries[side], Way) if side in entries else NATURAL for side in SIDES)
        return up, down
    way = convert(_only(node, WAY), Way)
    return way, way


def _steps(node: Node) -> Steps:
    steps = [(entry, _step(entry)) for entry in node.items()]
    if not steps:
        raise node.error("is empty: give at least one step, {at_s: 0, delay_ms: …}")
    first, start = steps[0]
    if start.at_s:
        raise first.entries()["at_s"].error(f"the first step must be at 0 s, when the trial begins, not {start.at_s:g}")
    for (_, earlier), (entry, later) in itertools.pairwise(steps):
        if later.at_s < earlier.at_s + SHORTEST_S:
            raise entry.entries()["at_s"].error(
                f"must be at least {SHORTEST_S:g} s after the step before: {later.at_s:g} follows {earlier.at_s:g}"
            )
    return Steps(steps=tuple(step for _, step in steps))


def _step(node: Node) -> Step:
    _refuse_unknown(node, ("at_s", "state", *WAY, *SIDES))
    at = convert(_only(node, ("at_s", "state")), _At)
    up, down = _ways(node)
    return Step(at_s=at.at_s, state=at.state, up=up, down=down)


def _switching(node: Node) -> Switching:
    convert(node, dict[Name, Any])  # the names of states appear in logs and figures
    if len(node.entries()) < 2:  # noqa: PLR2004 - from one to another
        raise node.error("needs at least two states to switch between: {good: {mean_s: 20, …}, bad: {mean_s: 5, …}}")
    return Switching(states={name: _state(state) for name, state in node.entries().items()})


def _state(node: Node) -> State:
    _refuse_unknown(node, ("mean_s", *WAY, *SIDES))
    mean_s = convert(_only(node, ("mean_s",)), _Lasting).mean_s
    up, down = _ways(node)
    return State(mean_s=mean_s, up=up, down=down)


def _only(node: Node, keys: Iterable[str]) -> Node:
    entries = node.entries()
    return node.having({key: entries[key] for key in keys if key in entries})


def _refuse_unknown(node: Node, known: Sequence[str]) -> None:
    for name, entry in node.entries().items():
        if name not in known:
            raise entry.error(f"unknown key{unknown(name, known)}")


# --- the rules of `hosts` --------------------------------------------------------------------------------------------


def rules(section: Node) -> tuple[Rule, ...]:
    """Return the rules of a section `hosts`; whether they fit a lab is asked later (`assigned`)."""
    if not section.items():
        raise section.error("is empty: give at least one rule {match: …, link: …}, or leave hosts out")
    return tuple(_rule(node) for node in section.items())


def _rule(node: Node) -> Rule:
    entry = convert(node, _RuleEntry)
    if not entry.match:
        raise node.entries()["match"].error("matches every client: say {label: value} or {name: client}, or use `link`")
    return Rule(node, entry.match, asked(node.entries()["link"]))


def assigned(found: Sequence[Rule], clients: Mapping[str, dict[str, str]]) -> dict[str, Rule]:
    """Return each client's rule, where one fits; `clients` maps names to labels. Raises InputError.

    Every rule must fit somebody, and no client two of them: then the order of rules means nothing.
    """
    chosen: dict[str, Rule] = {}
    for rule in found:
        if NAME in rule.match and any(NAME in labels for labels in clients.values()):
            raise rule.place.error(f"can mean two things: a client's name, and its label {NAME!r}; rename the label")
        fitting = [name for name, labels in clients.items() if rule.fits(name, labels)]
        if not fitting:
            raise _fits_nobody(rule, clients)
        for name in fitting:
            first = chosen.setdefault(name, rule)
            if first is not rule:
                raise rule.place.error(
                    f"fits {name}, and so does {first.place.key} (line {first.place.line}): one client, one rule"
                )
    return chosen


def _fits_nobody(rule: Rule, clients: Mapping[str, dict[str, str]]) -> InputError:
    match = rule.place.entries()["match"].entries()
    labels: dict[str, set[str]] = {}
    for own in clients.values():
        for label, value in own.items():
            labels.setdefault(label, set()).add(value)
    for key, value in rule.match.items():
        if key == NAME and value not in clients:
            return match[key].error(f"the lab has no client {value!r}{unknown(value, clients, 'clients')}")
        if key != NAME and key not in labels:
            known = unknown(key, [NAME, *labels], "keys of match")
            return match[key].error(f"no client of the lab has a label {key!r}{known}")
        if key != NAME and value not in labels[key]:
            known = unknown(value, sorted(labels[key]), f"values of {key}")
            return match[key].error(f"no client of the lab has the label {key}: {value}{known}")
    wanted = ", ".join(f"{key}: {value}" for key, value in rule.match.items())
    return rule.place.error(f"fits no client: none has all of {wanted}")
