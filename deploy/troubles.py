"""What went wrong in a campaign that went on, in words: the same on the terminal while it runs and in the report."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - part of the contract below
from typing import TYPE_CHECKING

from flcommon import events
from flcommon.job import WARMUP
from flcommon.process import STDERR_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_CHARACTERS = 200


def place(event: events.OfRound) -> str:
    """Say when something was."""
    trial = "the warm-up" if event.trial == WARMUP else f"trial {event.trial}"
    return f"{trial}, round {event.round}"


def clipped(text: str) -> str:
    """Return the first line of what somebody else's code says, and not much of it."""
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}…"


def app_raised(event: events.AppRaised, run: Path | None, host: str, times: int = 1) -> str:
    """Say that an app has raised on a client, how often, and where its traceback is."""
    where = "" if run is None else f"; traceback: {run / 'raw' / host / STDERR_FILE}"
    return f"the app raised {clipped(event.error)} ({place(event)}{_often(times)}{where})"


def back(event: events.ClientBack) -> str:
    """Say that a client has come back."""
    return f"back after {event.after_s:.1f} s{', in a new process' if event.restarted else ''}"


def refused(reason: str, peer: str | None, times: int) -> str:
    """Say that the server let somebody not in."""
    return f"refused{f' {peer}' if peer else ''}: {reason}{f' ({times} times)' if times > 1 else ''}"


def losses(told: Iterable[events.AnyEvent]) -> list[str]:
    """Return a sentence for each client that the server lost: how often, for how long, whether for good."""
    lost: dict[str, list[events.ClientLost]] = {}
    returns: dict[str, list[events.ClientBack]] = {}
    given_up: dict[str, events.ClientGivenUp] = {}
    for event in told:
        match event:
            case events.ClientLost():
                lost.setdefault(event.client, []).append(event)
            case events.ClientBack():
                returns.setdefault(event.client, []).append(event)
                given_up.pop(event.client, None)
            case events.ClientGivenUp():
                given_up[event.client] = event
            case _:
                pass
    return [
        f"client {client} was {_loss(lost.get(client, []), returns.get(client, []), given_up.get(client))}"
        for client in dict.fromkeys((*lost, *returns, *given_up))
    ]


def _loss(
    lost: list[events.ClientLost], returns: list[events.ClientBack], given_up: events.ClientGivenUp | None
) -> str:
    parts = [f"lost{f' {len(lost)} times' if len(lost) > 1 else ''} ({clipped(lost[-1].reason)})"] if lost else []
    if len(returns) == 1:
        parts.append(back(returns[0]))
    elif returns:
        anew = sum(event.restarted for event in returns)
        longest_s = max(event.after_s for event in returns)
        parts.append(
            f"back {len(returns)} times, after {longest_s:.1f} s at most"
            + (f", {anew} of them in a new process" if anew else "")
        )
    if given_up is not None:
        parts.append(f"given up in the end ({clipped(given_up.reason)})")
    elif len(lost) > len(returns):
        parts.append("not back at the end")
    return ", ".join(parts)


def _often(times: int) -> str:
    return f"; {times} times" if times > 1 else ""
