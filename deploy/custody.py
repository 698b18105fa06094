"""What becomes of a campaign when its controller goes: stopped and recorded, or left running for who attaches later.

Both are written as with-blocks that undo in reverse, go on after a failed undo, and never hide the first error.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from deploy.errors import CampaignError, DeployError, together
from deploy.remote.fanout import NARROW, fan_out, try_out
from deploy.worker import Worker
from flcommon.process import STDERR_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from deploy.manifest import Manifest
    from deploy.phases import Phases
    from deploy.rundir import RunDirectory
    from deploy.view import View
    from deploy.watch import CampaignWatch
    from flcommon import events

STDERR_LINES = 10


@dataclass
class Campaign:
    """One playbook on one lab: what its manifest says, and the process of each host that takes part.

    `left` says that nobody undoes anything: the campaign runs on without this controller. `lost`: which clients took
    no part any more when it ended, and why.
    """

    manifest: Manifest
    workers: Mapping[str, Worker]
    left: bool = False
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def server(self) -> Worker:
        """The server's process."""
        return self.workers[self.manifest.server]

    @property
    def clients(self) -> dict[str, Worker]:
        """The clients' processes, in the order of the inventory."""
        return {name: self.workers[name] for name in self.manifest.clients if name in self.workers}


@contextmanager
def stopped(campaign: Campaign, watch: CampaignWatch, phases: Phases) -> Iterator[None]:
    """See to it that every process of the campaign has ended when the with-block is left, unless it is `left`."""
    try:
        yield
    finally:
        if campaign.left:
            watch.leave()
        else:
            campaign.lost = watch.missing()
            phases.begin("stop")
            still = {host: worker for host, worker in campaign.workers.items() if not watch.has_ended(host)}
            try_all(still, Worker.stop, phases.view)
            watch.join()


@contextmanager
def recorded(campaign: Campaign, run: RunDirectory, phases: Phases) -> Iterator[None]:
    """Keep a run directory: the manifest from the start, at the end the logs and how it ended, unless it is `left`."""
    with run.owned():
        phases.view.run(run.path, campaign.manifest)
        run.write(campaign.manifest)
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            if not campaign.left:
                _conclude(campaign, run, error, phases)


def pull_quietly(campaign: Campaign, run: RunDirectory, view: View) -> Callable[[events.Paused, Collection[str]], None]:
    """Return what to do when the server pauses: pull what is new from all hosts but those away, then let it go on.

    A pause that is over, as when an old log is read again, is none: nothing is pulled during a round.
    """

    def pull(pause: events.Paused, away: Collection[str]) -> None:
        here = {host: worker for host, worker in campaign.workers.items() if host not in away}
        try:
            if campaign.server.is_paused(pause.number):
                try_all(here, lambda worker: worker.pull(run.raw(worker.host), final=False), view)
                campaign.server.resume(pause.number)
        except DeployError as error:
            view.note(str(error))

    return pull


def _pull_all(campaign: Campaign, run: RunDirectory, view: View) -> None:
    """Pull all that the campaign's hosts have; a host that fails is noted."""
    pulled = try_out(campaign.workers, lambda worker: worker.pull(run.raw(worker.host)), width=NARROW)
    if pulled.failures:
        view.note(str(together(pulled.failures)))
    for host, files in pulled.results.items():
        for name, file in files.items():
            if file.left_out:
                view.note(f"{host}: {name} has {file.size >> 20} MiB: the last 16 are here, the rest is on the host")


def try_all(workers: Mapping[str, Worker], work: Callable[[Worker], object], view: View) -> None:
    """Do something on all hosts while undoing: a host that fails is noted, and hides no earlier error."""
    try:
        fan_out(workers, work)
    except DeployError as error:
        view.note(str(error))


def _conclude(campaign: Campaign, run: RunDirectory, error: BaseException | None, phases: Phases) -> None:
    """Pull all logs and write the manifest's last state; a failure of that hides no earlier error."""
    phases.begin("pull")
    _pull_all(campaign, run, phases.view)
    phases.end()
    if isinstance(error, CampaignError):
        error.add_output(run.raw(error.host) / STDERR_FILE, STDERR_LINES)
    try:
        run.write(_ended(campaign, error, phases))
    except DeployError as failure:
        if error is None:
            raise
        phases.view.note(str(failure))


def _ended(campaign: Campaign, error: BaseException | None, phases: Phases) -> Manifest:
    manifest = msgspec.structs.replace(campaign.manifest, lost=campaign.lost, phases_s=phases.seconds)
    if error is None:
        return msgspec.structs.replace(manifest, status="complete")
    if isinstance(error, KeyboardInterrupt | Stopped):
        return msgspec.structs.replace(manifest, status="interrupted")
    said = str(error) if isinstance(error, DeployError) else type(error).__name__
    return msgspec.structs.replace(manifest, status="failed", error=said)


class Stopped(DeployError):
    """The user has asked for the campaign's end (`deploy stop`); no failure."""
