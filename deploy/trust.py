"""`deploy trust`: which key each host of a lab shows, whether it is known, and recording those that are new.

Nothing is trusted here: the person compares fingerprints and says so, and only then `record` writes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from deploy.errors import DeployError, HostError
from deploy.remote.fanout import fan_out
from deploy.remote.hostkeys import fingerprint, known_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from deploy.inventory import Host, Inventory
    from deploy.remote.hostkeys import ShownKey


class State(StrEnum):
    """What is known of a host's key."""

    KNOWN = "known"
    NEW = "new"
    CHANGED = "CHANGED"
    UNREACHABLE = "unreachable"


STYLES = {State.KNOWN: "green", State.NEW: "yellow", State.CHANGED: "bold red", State.UNREACHABLE: "red"}


@dataclass(frozen=True)
class Finding:
    """A host or jump host and the key that it shows, or why it shows none."""

    host: Host
    state: State
    shown: ShownKey | None
    reason: str = ""

    @property
    def address(self) -> str:
        """The host as known_hosts writes it, else as the inventory does."""
        return self.shown.known.name if self.shown else self.host.host


@dataclass(frozen=True)
class Survey:
    """What all hosts of a lab show, jump hosts first."""

    lab: str
    findings: tuple[Finding, ...]

    @property
    def new(self) -> tuple[Finding, ...]:
        """The hosts whose key could be recorded."""
        return tuple(finding for finding in self.findings if finding.state is State.NEW)

    @property
    def ok(self) -> bool:
        """Whether every host's key is known."""
        return all(finding.state is State.KNOWN for finding in self.findings)

    @property
    def table(self) -> Table:
        """The table to print: a fingerprint to compare for each host."""
        table = Table(title=f"{self.lab}: SSH host keys", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("host", overflow="fold")
        table.add_column("fingerprint", no_wrap=True)  # in one piece: it is there to be compared
        table.add_column("state", no_wrap=True)
        for finding in self.findings:
            shown = finding.shown
            kind, print_ = (shown.key_type, fingerprint(shown.key)) if shown else ("", "-")
            host = Text.assemble(finding.host.name, "\n", (finding.address, "dim"))
            state = Text(finding.state.value, style=STYLES[finding.state])
            table.add_row(host, Text.assemble(print_, "\n", (kind, "dim")), state)
        return table

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be said of single hosts: why one cannot be reached, that a key has changed."""
        return tuple(f"{finding.host.name}: {finding.reason}" for finding in self.findings if finding.reason)


@dataclass(frozen=True)
class Routes:
    """How hosts are asked for their keys: `Connector.host_key`, and which jump hosts are on the way to one."""

    host_key: Callable[[Host], ShownKey]
    jump_hosts: Callable[[Host], tuple[Host, ...]]


def survey(inventory: Inventory, routes: Routes) -> Survey:
    """Ask every host, and every jump host on the way to one, for its key, all at once; logs in to jump hosts only.

    Behind a jump host whose own key is not known yet, hosts count as unreachable: record its key, then ask again.
    """
    jumps = {_place(jump): jump for host in inventory.hosts for jump in routes.jump_hosts(host)}
    own = {_place(host) for host in inventory.hosts}
    hosts = [*(jump for place, jump in jumps.items() if place not in own), *inventory.hosts]
    found = fan_out({str(number): host for number, host in enumerate(hosts)}, lambda host: _ask(host, routes))
    return Survey(inventory.lab, tuple(found.values()))


def record(findings: Iterable[Finding]) -> dict[Path, int]:
    """Add the keys of new hosts to their lab's known_hosts; return how many lines each file gained.

    Each file is replaced as a whole (mode 0600), so that it is never half written; its other lines stay.
    """
    lines: dict[Path, dict[str, None]] = {}
    for finding in findings:
        if finding.state is State.NEW and finding.shown is not None:
            known = finding.shown.known
            line = known_line(known.name, finding.shown.key_type, finding.shown.key)
            lines.setdefault(known.files[0], {})[line] = None
    for file, new in lines.items():
        try:
            _append(file, list(new))
        except OSError as error:
            raise DeployError(f"{file}: the host keys cannot be recorded: {error.strerror or error}") from error
    return {file: len(new) for file, new in lines.items()}


def _place(host: Host) -> tuple[str, int]:
    return host.host.lower(), host.ssh.port or 22


def _ask(host: Host, routes: Routes) -> Finding:
    try:
        shown = routes.host_key(host)
    except HostError as error:
        return Finding(host, State.UNREACHABLE, None, error.reason)
    if shown.refusal is None:
        return Finding(host, State.KNOWN, shown)
    if shown.is_new:
        return Finding(host, State.NEW, shown)
    return Finding(host, State.CHANGED, shown, shown.refusal)


def _append(file: Path, lines: Sequence[str]) -> None:
    target = Path(os.path.realpath(file))  # a link stays a link
    old = target.read_bytes() if target.exists() else b""
    if old and not old.endswith(b"\n"):
        old += b"\n"
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(number, "wb") as draft:
            draft.write(old + "".join(f"{line}\n" for line in lines).encode())
            draft.flush()
            os.fsync(draft.fileno())
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
