"""What the life cycle shows while it works. `deploy.progress` draws it; tests and scripts use the silent one here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploy.manifest import PlannedTrial
    from flcommon.events import AnyEvent


class Trials(Protocol):
    """What will run (a Plan or a Manifest): the trials in the order of execution, and on which clients."""

    @property
    def trials(self) -> tuple[PlannedTrial, ...]: ...  # noqa: D102
    @property
    def clients(self) -> tuple[str, ...]: ...  # noqa: D102


class View(Protocol):
    """Somebody who is told what happens."""

    def phase(self, name: str) -> None:
        """A phase of the life cycle begins: hosts, connect, look, prepare, push, start, run, stop, pull, report."""

    def hosts(self, names: Sequence[str]) -> None:
        """The hosts of the lab are known."""

    def host(self, name: str, state: str) -> None:
        """A host's state has changed, in a few words."""

    def run(self, directory: Path, plan: Trials) -> None:
        """What will run, and where the run is kept."""

    def event(self, host: str, event: AnyEvent) -> None:
        """A process has said something."""

    def note(self, text: str) -> None:
        """Something that the user should know, and that stops nothing."""


class Silent:
    """A view that shows nothing."""

    def phase(self, name: str) -> None:
        """Show nothing."""

    def hosts(self, names: Sequence[str]) -> None:
        """Show nothing."""

    def host(self, name: str, state: str) -> None:
        """Show nothing."""

    def run(self, directory: Path, plan: Trials) -> None:
        """Show nothing."""

    def event(self, host: str, event: AnyEvent) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""
