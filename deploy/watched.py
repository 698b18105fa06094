"""What is known of each process of a campaign, how that is said, and when one that died is started again."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.errors import CampaignError
from flcommon import events
from flcommon.runner import STOPPED_FROM_OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.errors import DeployError
    from flcommon.process import Exit

PAUSES_S = (1.0, 5.0, 25.0)
"""Before a process that died is started again for the first, second and last time: `flcommon.process.MOST_STARTS`."""
UNREACHED = "no answer from the server"
"""How a client begins that could not reach its server for too long: not its own fault, and the server may take it."""


@dataclass
class Watched:
    """What is known of one process.

    `lost`: why nothing more will come from it; `away`: why its host is out of reach, where it is being looked for;
    `gone`: what the server says of it, while it is not connected; `starts`: how often it was started again, `before`:
    how it had ended then, until it says that it runs.
    """

    failed: events.Failed | None = None
    exit: Exit | None = None
    lost: DeployError | None = None
    away: DeployError | None = None
    gone: str | None = None
    starts: int = 0
    before: Exit | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from it."""
        return self.exit is not None or self.lost is not None

    @property
    def heard(self) -> bool:
        """Whether more may come from it at any moment."""
        return not self.ended and self.away is None

    @property
    def bad(self) -> bool:
        """Whether it failed."""
        return self.lost is not None or self.died

    @property
    def died(self) -> bool:
        """Whether the process was seen to end badly."""
        return self.exit is not None and self.exit.status != 0

    @property
    def silent(self) -> bool:
        """Whether it ended badly without a word of its own, as a killed process does."""
        return self.died and self.failed is None

    @property
    def worth_another_start(self) -> bool:
        """Whether a process that ended may work when it is started again.

        So it is if something outside ended it: a signal (the kernel's for want of memory, a crash of native code), a
        power failure (nobody saw its end), a SIGTERM (its host is rebooting; who stops it on purpose says so on the
        host, where it is then not started again), or a network on which it could not reach the server. One that ended
        by itself would do so again, and says why in most cases: the app cannot be loaded, the server refuses it, the
        disk is full.
        """
        if self.exit is None or self.exit.status == 0:
            return False
        if self.exit.status is None or self.exit.status < 0:
            return True
        said = self.failed
        return said is not None and said.reason.startswith((STOPPED_FROM_OUTSIDE, UNREACHED))

    @property
    def ending(self) -> str:
        """Say how it ended, in its own words if it had any."""
        return ending(self.exit) if self.failed is None else f"{self.failed.step}: {self.failed.reason}"

    @property
    def missing(self) -> str | None:
        """Say why this client takes no part at this moment; None if it does: a host may be out of our reach alone."""
        return self.ending if self.died and not is_echo(self.failed) else self.gone


def cause(hosts: Mapping[str, Watched], when: str) -> DeployError:
    """Return the most telling error: a process killed without a word, one's own words, a lost host.

    Of equals, that of the first of `hosts`; `when` stands behind what a process is to blame for.
    """
    for host, one in hosts.items():
        if one.silent:
            return CampaignError(host, "run", f"{ending(one.exit)}{when}")
    said = [(host, one.failed) for host, one in hosts.items() if one.failed is not None]
    own = [(host, failed) for host, failed in said if not is_echo(failed)]
    lost = [one.lost for one in hosts.values() if one.lost is not None]
    if lost and not own:
        return lost[0]
    host, failed = (own or said)[0]
    return CampaignError(host, failed.step, f"{failed.reason}{when}")


def ending(status: Exit | None) -> str:
    """Say how a process ended that said nothing itself."""
    number = status.status if status else None
    if number is None:
        return "the process is gone and left no exit status: killed with its supervisor, or the disk is full"
    if number < 0:
        return f"the process was killed by {signal_name(-number)}"
    return f"the process ended with status {number}"


def signal_name(number: int) -> str:
    """Return what a signal is called here; a host of another system may have others."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def is_echo(failed: events.Failed | None) -> bool:
    """Whether a client only repeats that the campaign is over."""
    return failed is not None and failed.reason.startswith("the server ended the campaign")


def place_of(event: events.AnyEvent) -> str:
    """Say which trial or round begins with an event; nothing if none does."""
    match event:
        case events.RoundStarted():
            return f"trial {event.trial}, round {event.round}"
        case events.TrialOpened():
            return f"trial {event.trial}"
    return ""
