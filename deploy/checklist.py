"""Writes down what `deploy check` has found: for people (what is wrong, once, and where), and as JSON for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deploy.differences import CONTROLLER
from deploy.labels import signed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from deploy.checking import Checked
    from deploy.facts import Finding
    from deploy.health import Examined
    from deploy.shaping import Choice

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_INDENT = 9
"""Wider than the longest level."""
_SHOWN = ("flwr", "torch")


def page(checked: Checked) -> RenderableType:
    """Return what a terminal shows: a line per host, then each finding with its fix, the worst first.

    A fix is one line however long, so that it can be copied: print it with `crop=False`.
    """
    lab, app = checked.inventory.lab, checked.app.name
    answer = Text("yes", style="bold green") if checked.ok else Text("no", style="bold red")
    return Group(Text.assemble(f"{lab}: can a run of {app} start? ", answer), _hosts(checked), *_findings(checked))


def document(checked: Checked) -> str:
    """Return the same as one JSON document, with all facts."""
    hosts = {
        host.name: {
            "role": host.role,
            "facts": seen and seen.facts,
            "health": seen and seen.health,
            "clock": seen and seen.clock,
            "link": _link_told(checked.layers.get(host.name)),
            "findings": checked.findings[host.name],
        }
        for host in checked.inventory.hosts
        for seen in [checked.seen.get(host.name)]
    }
    told = {
        "lab": checked.inventory.lab,
        "app": checked.app.name,
        "ok": checked.ok,
        "hosts": hosts,
        "controller": {"findings": checked.findings[CONTROLLER]},
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def _hosts(checked: Checked) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading, whole in (("host", False), ("can start", True), ("machine", False), ("software", False)):
        table.add_column(heading, overflow="fold", no_wrap=whole)
    table.add_column("clock, s", no_wrap=True)
    if checked.layers:
        table.add_column("link by", no_wrap=True)
    for host in checked.inventory.hosts:
        seen, state = checked.seen.get(host.name), _state(checked.findings[host.name])
        prepared = "" if host.python.manager == "existing" else f" ({host.python.manager} prepares more)"
        cells = _row(seen, prepared) if seen else (Text("-"),) * 3
        link = (_layer(checked.layers.get(host.name)),) if checked.layers else ()
        table.add_row(host.name, state, *cells, *link)
    return table


def _layer(choice: Choice | None) -> Text:
    """Say who shapes a client's link; why it is not the kernel stands among the findings."""
    if choice is None:
        return Text("-")
    return Text("nobody", style=COLOURS["error"]) if choice.shaping is None else Text(choice.shaping.layer)


def _link_told(choice: Choice | None) -> dict[str, object] | None:
    """Return the same for a script, and why it is so; nothing where no link is asked for."""
    return None if choice is None else {"shaping": choice.shaping, "why": choice.why}


def _state(found: Sequence[Finding]) -> Text:
    levels = {one.level for one in found}
    if "error" in levels:
        return Text("no", style=COLOURS["error"])
    return Text("ready", style=COLOURS["warning"] if "warning" in levels else "green")


def _row(seen: Examined, prepared: str) -> tuple[Text, ...]:
    facts, clock = seen.facts, seen.clock
    memory = f"{facts.memory_mb / 1024:.1f} GB" if facts.memory_mb else ""
    machine = (_short(facts.cpu), f"{facts.cpus or '?'} x {facts.machine}", memory, facts.system)
    versions = [f"{package} {facts.packages[package]}" for package in _SHOWN if facts.packages.get(package)]
    python = f"Python {facts.python_version}" if facts.python_version else "no Python"
    offset = f"{signed(f'{clock.offset_s:.3f}')} ± {clock.error_s:.3f}" if clock else "-"
    return (Text(", ".join(filter(None, machine))), Text(", ".join([python, *versions]) + prepared), Text(offset))


def _short(cpu: str) -> str:
    """Return a processor's name without what its maker's lawyers added, and without its nominal speed."""
    name = cpu.partition(" @ ")[0]
    for mark in ("(R)", "(TM)", " CPU", " Processor"):
        name = name.replace(mark, "")
    return name


def _findings(checked: Checked) -> Iterator[RenderableType]:
    """Yield each finding once, with all hosts that have it."""
    having: dict[Finding, list[str]] = {}
    for name, found in checked.findings.items():
        for one in dict.fromkeys(found):
            having.setdefault(one, []).append(name)
    for level, colour in COLOURS.items():
        for one, names in having.items():
            if one.level == level:
                yield Text.assemble((f"{level:<{_INDENT}}", colour), (", ".join(names), "bold"))
                yield Padding(Text(one.what), (0, 0, 0, _INDENT))
                yield Text(f"{'fix:':<{_INDENT}}{one.fix}", no_wrap=True, overflow="ignore")
                yield Text("")
