"""`deploy status` and `deploy logs`: what the toolkit's processes on a lab do, and what they write. Changes nothing."""

from __future__ import annotations

import posixpath
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from deploy.errors import DeployError, HostError
from deploy.facts import look_at_ours
from deploy.remote.fanout import ask_all
from deploy.troubles import clipped
from deploy.worker import Tail, host_statuses, host_tail
from flcommon.process import EVENTS_FILE, MOST_STARTS, STDERR_FILE, STDOUT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.inventory import Host, Inventory
    from deploy.remote.protocol import Remote
    from flcommon.status import Status

    Connect = Callable[[Host], Remote]


@dataclass(frozen=True)
class Report:
    """A table to print, and whether all hosts have answered."""

    table: Table
    ok: bool


FILES = {"events": EVENTS_FILE, "stdout": STDOUT_FILE, "stderr": STDERR_FILE}


def lab_status(inventory: Inventory, connect: Connect) -> Report:
    """Ask all hosts at once for their latest processes; one that cannot be reached is a row like any other."""
    told = ask_all(inventory.hosts, connect, _asked)
    table = Table(title=f"{inventory.lab}: latest processes", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("host", "campaign", "state", "place", "started"):
        table.add_column(heading, overflow="fold")
    for name, found in told.items():
        for row in _rows(found):
            table.add_row(name, *row)
    return Report(table, ok=not any(isinstance(found, DeployError) for found in told.values()))


def show_log(host: Host, connect: Connect, file: Tail, on_line: Callable[[str], None]) -> None:
    """Pass on the end of a file of the host's latest process; `file.directory` is filled in. Raises HostError."""
    with closing(connect(host)) as remote:
        facts = look_at_ours(host, remote)
        latest = host_statuses(remote, facts)
        if not latest:
            raise HostError(host.name, "logs", "no campaign has run on this host")
        host_tail(remote, facts, replace(file, directory=latest[0].directory), on_line)


def _asked(host: Host, remote: Remote) -> list[Status]:
    return host_statuses(remote, look_at_ours(host, remote))


def _rows(found: list[Status] | DeployError) -> list[tuple[Text, ...]]:
    if isinstance(found, DeployError):
        return [(Text("-"), Text(str(found), style="red"), Text("-"), Text("-"))]
    shown = [one for one in found if one.alive] or found[:1]
    return [_row(one) for one in shown] or [(Text("-"), Text("nothing has run here"), Text("-"), Text("-"))]


def _row(one: Status) -> tuple[Text, ...]:
    campaign = posixpath.basename(posixpath.dirname(one.directory))
    place = "-" if one.round is None else f"trial {one.trial}, round {one.round}"
    return (Text(campaign), _state(one), Text(place), Text(f"{_ago(one.age_s)} ago"))


def _state(one: Status) -> Text:
    state = Text.assemble(_ending(one))
    if one.start > 1:
        state.append(f", start {one.start} of {MOST_STARTS} at most")
    for client, how in one.missing.items():
        state.append(f"; {client} is {how}", style="red")
    if one.raised is not None:
        state.append(f"; the app raised {clipped(one.raised)}", style="red")
    return state


def _ending(one: Status) -> Text:
    if one.alive:
        return Text("running", style="green")
    if one.exit == 0:
        return Text("ended well")
    return Text("ended, and nobody saw how" if one.exit is None else f"failed with status {one.exit}", style="red")


def _ago(seconds: float) -> str:
    """Write a time in its two largest units."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
