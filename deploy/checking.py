"""`deploy check`: what a look finds on every host of a lab, as a table with the fix beside each finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from deploy.errors import DeployError
from deploy.facts import Facts, findings, look
from deploy.remote.fanout import ask_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.inventory import Host, Inventory
    from deploy.remote.protocol import Remote

Looked = Facts | DeployError


@dataclass(frozen=True)
class Report:
    """A table to print, and whether a run can start."""

    table: Table
    ok: bool


def check_lab(inventory: Inventory, app: str, connect: Callable[[Host], Remote]) -> Report:
    """Look at all hosts at once; a host that cannot be reached is a finding like any other."""
    found = ask_all(inventory.hosts, connect, look)
    table = Table(title=f"{inventory.lab}: can a run of {app} start?", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("host", "machine", "python", "finding"):
        table.add_column(heading, overflow="fold")
    for name, looked in found.items():
        table.add_row(name, *_row(looked, app))
    return Report(table, ok=not any(_errors(looked, app) for looked in found.values()))


def _errors(looked: Looked, app: str) -> bool:
    return isinstance(looked, DeployError) or any(one.level == "error" for one in findings(looked, app))


def _row(looked: Looked, app: str) -> tuple[Text, ...]:
    if isinstance(looked, DeployError):
        return (Text("-"), Text("-"), Text(str(looked), style="red"))
    machine = f"{looked.cpu}, {looked.cpus} x {looked.machine}, {looked.memory_mb or '?'} MB, {looked.system}"
    versions = [
        f"{name} {version}" for name, version in looked.packages.items() if name in ("flwr", "torch") and version
    ]
    python = ", ".join([f"Python {looked.python_version}", *versions])
    return (Text(machine), Text(python), _said(looked, app))


def _said(facts: Facts, app: str) -> Text:
    found = findings(facts, app)
    if not found:
        return Text("ready", style="green")
    return Text("\n").join(
        Text(f"{one.what}; {one.fix}", style="red" if one.level == "error" else "yellow") for one in found
    )
