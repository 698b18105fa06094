"""Draws what happens on the terminal: hosts, phases, trial k of n, round, time left (rich).

On a terminal a live picture; elsewhere (a pipe, a CI log) a line per phase and per trial.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy import troubles
from deploy.estimate import Estimate
from deploy.labels import settings_text
from flcommon import events
from flcommon.job import WARMUP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from deploy.manifest import PlannedTrial
    from deploy.view import Trials

PHASES = {
    "hosts": "getting hosts",
    "connect": "connecting",
    "look": "looking",
    "prepare": "preparing Python",
    "push": "pushing code",
    "start": "starting",
    "run": "running",
    "stop": "stopping",
    "pull": "pulling logs",
}
MOST_HOSTS = 12
"""More than this many hosts are shown as a count."""


class Progress:
    """A `View` for people. Use it as a context manager: the live picture ends with it."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._since = time.monotonic()
        self._phase = ""
        self._hosts: dict[str, str] = {}
        self._plan: Trials | None = None
        self._estimate: Estimate | None = None
        self._places: dict[int, int] = {}
        self._trial: PlannedTrial | None = None
        self._round = 0
        self._done = 0
        self._metric = ""
        self._raised: Counter[tuple[str, str]] = Counter()
        self.directory: Path | None = None
        self.undoing = False
        self._live = Live(
            console=console, get_renderable=self._picture, refresh_per_second=8, transient=True, auto_refresh=True
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live picture away; what is to stay is printed by the caller."""
        if self._console.is_terminal:
            self._live.stop()

    @contextlib.contextmanager
    def interlude(self) -> Iterator[None]:
        """Draw nothing for a while: somebody else has the terminal."""
        drawn = self._live.is_started
        if drawn:
            self._live.stop()
        try:
            yield
        finally:
            if drawn:
                self._live.start()

    # --- deploy.view.View --------------------------------------------------------------------------------------------

    def phase(self, name: str) -> None:
        """Show a phase of the life cycle."""
        self.undoing = name in ("stop", "pull")
        self._phase = PHASES.get(name, name)
        self._say(self._phase)
        if self.undoing:
            self._trial = None

    def hosts(self, names: Sequence[str]) -> None:
        """Show the hosts."""
        self._hosts = dict.fromkeys(names, "")

    def host(self, name: str, state: str) -> None:
        """Show a host's state."""
        self._hosts[name] = state

    def run(self, directory: Path, plan: Trials) -> None:
        """Show the plan."""
        self.directory, self._plan, self._estimate = directory, plan, Estimate(plan)
        self._places = {trial.index: place for place, trial in enumerate(plan.trials, 1)}
        self._say(f"{len(plan.trials)} trials, {len(plan.clients)} clients, into {directory}")

    def note(self, text: str) -> None:
        """Print a remark above the picture."""
        self._console.print(Text(f"note: {text}", style="yellow"), soft_wrap=True)

    def event(self, host: str, event: events.AnyEvent) -> None:
        """Show what a process says."""
        match event:
            case events.Listening(address=address):
                self._hosts[host] = f"listens on {address}"
            case events.Ready(after_s=after_s):
                self._hosts[host] = f"ready after {after_s:.1f} s"
            case events.Failed(reason=reason):
                self._hosts[host] = reason
            case events.AppRaised():
                self._app_raised(host, event)
            case events.ClientLost() | events.ClientBack() | events.ClientGivenUp() | events.Refused():
                self._remark(event)
            case _:
                self._advance(event)

    # --- own ---------------------------------------------------------------------------------------------------------

    def _app_raised(self, host: str, event: events.AppRaised) -> None:
        """Tell of an error of the app at its first time; then count it beside the host."""
        self._raised[host, event.error] += 1
        times = self._raised[host, event.error]
        if times == 1:
            self.note(f"{host}: {troubles.app_raised(event, self.directory, host)}")
        self._hosts[host] = troubles.app_raised(event, None, host, times)

    def _remark(self, event: events.ClientLost | events.ClientBack | events.ClientGivenUp | events.Refused) -> None:
        """Tell what the server says of a client's connection, and show it beside the client."""
        match event:
            case events.ClientLost(client=client, reason=reason):
                state = f"lost: {reason}"
            case events.ClientGivenUp(client=client, reason=reason):
                state = f"given up: {reason}"
            case events.ClientBack(client=client):
                state = troubles.back(event)
            case events.Refused():
                self.note(f"server: {troubles.refused(event.reason, event.peer, event.count)}")
                return
        self._hosts[client] = state
        self.note(f"{client}: {state}")

    def _advance(self, event: events.AnyEvent) -> None:
        """Follow the sequence of trials and rounds."""
        if self._plan is None or self._estimate is None:
            return
        if isinstance(event, events.OfTrial) and event.trial == WARMUP:
            self._warm_up(event)
            return
        match event:
            case events.TrialOpened(trial=index):
                self._phase = PHASES["run"]
                self._trial = next(trial for trial in self._plan.trials if trial.index == index)
                self._round, self._metric = 0, ""
            case events.RoundStarted(round=number):
                self._round = number
            case events.RoundEnded(trial=index, duration_s=duration_s):
                self._estimate.round_ended(index, duration_s)
            case events.Metrics(source="central", values=values):
                self._metric = " · ".join(f"{name} {value:.3g}" for name, value in values.items())
            case events.TrialEnded(trial=index, duration_s=duration_s):
                self._estimate.trial_ended(index)
                self._done += 1
                place = f"trial {self._places[index]} of {len(self._plan.trials)}"
                told = [f"{place}: {self._settings()} took {duration_s:.2f} s", self._metric, self._left()]
                self._say(" · ".join(part for part in told if part))

    def _warm_up(self, event: events.OfTrial) -> None:
        if isinstance(event, events.TrialOpened):
            self._phase = "warming up"
            self._say(self._phase)

    def _say(self, line: str) -> None:
        """Print a line where no live picture is drawn."""
        if not self._console.is_terminal:
            passed = time.monotonic() - self._since
            self._console.print(Text(f"{passed:7.1f} s  {line}"), soft_wrap=True)

    def _settings(self) -> str:
        return settings_text(self._trial) if self._trial else ""

    def _left(self) -> str:
        left_s = self._estimate.left_s if self._estimate else None
        return f"about {_clock(left_s)} left" if left_s is not None else ""

    def _picture(self) -> RenderableType:
        head = Text.assemble(
            (self._title, "bold"), "  ", (self._phase, "cyan"), f"  {_clock(time.monotonic() - self._since)}"
        )
        parts: list[RenderableType] = [head, self._host_table()]
        if self._plan is not None:
            bar = Table.grid(padding=(0, 2))
            bar.add_row(
                ProgressBar(total=len(self._plan.trials), completed=self._done, width=50),
                Text(self._left()),
            )
            parts += [bar, self._trial_line()]
        return Group(*parts)

    def _host_table(self) -> RenderableType:
        if len(self._hosts) > MOST_HOSTS:
            ready = sum("ready" in state for state in self._hosts.values())
            return Text(f"  {len(self._hosts)} hosts, {ready} ready")
        table = Table.grid(padding=(0, 2))
        for name, state in self._hosts.items():
            table.add_row(Text(f"  {name}"), Text(state, style="dim"))
        return table

    def _trial_line(self) -> Text:
        if self._plan is None or self._trial is None:
            return Text(f"{self._done} of {len(self._plan.trials) if self._plan else 0} trials done")
        place = f"trial {self._places[self._trial.index]} of {len(self._plan.trials)}"
        of = f" of {self._trial.rounds}" if self._trial.rounds else ""  # 0: only the app knows
        parts = [place, f"round {self._round}{of}", self._settings(), self._metric]
        return Text(" · ".join(part for part in parts if part))


def _clock(seconds: float) -> str:
    """Return minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
