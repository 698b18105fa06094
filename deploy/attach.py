"""Finds the campaign that runs on a lab, or that ended there unseen, and takes it over: `attach` and `stop`.

The server's host keeps the campaign's manifest, so any controller can do so, not only the one that started it.
"""

from __future__ import annotations

import posixpath
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from deploy.clocks import conversing
from deploy.crew import assembled
from deploy.custody import Campaign, Stopped, pull_quietly, recorded, stopped
from deploy.errors import CampaignError, HostError
from deploy.facts import Facts, look_at_ours
from deploy.manifest import SCHEMA_VERSION, Manifest
from deploy.phases import Phases
from deploy.remote.late import LateRemote
from deploy.rundir import RunDirectory
from deploy.watch import CLIENT_EVENTS, SERVER_EVENTS, CampaignWatch
from deploy.worker import Worker, host_statuses
from flcommon.process import MANIFEST_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from deploy.crew import Crew
    from deploy.inventory import Host, Inventory
    from deploy.remote.protocol import Remote
    from deploy.view import View


@dataclass(frozen=True)
class Place:
    """Where to look for a campaign: a lab that can be entered, and the directory that keeps runs."""

    lab: AbstractContextManager[Inventory]
    runs: Path
    connect: Callable[[Host], Remote]


def attach(place: Place, view: View) -> None:
    """Watch the campaign on a lab to its end and record it, as `up` would have; raises DeployError.

    An interrupt leaves it running, and so does a server that is out of reach: only a campaign that failed is stopped.
    A client that is down is started again, one whose host is out of reach is looked for, as long as the server runs.
    """
    phases = Phases(view)
    with (
        place.lab as inventory,
        assembled(inventory, place.connect, view, min_clients=0) as crew,
        _looked_for(place, crew) as absent,
    ):
        campaign = _found(crew, phases, absent)
        run = RunDirectory.of(place.runs, campaign.manifest)
        watch = CampaignWatch(view.event, on_note=view.note, on_pause=pull_quietly(campaign, run, view))
        watch.on_host, watch.running = view.host, True
        if campaign.server.directory not in crew.facts[campaign.server.host].running:
            watch.pauses_s = ()  # it is over: there is nothing to start a client for
        with recorded(campaign, run, phases), stopped(campaign, watch, phases), conversing(campaign, run, watch):
            phases.begin("run")
            campaign.left = True
            for name, worker in campaign.workers.items():
                watch.follow(worker, SERVER_EVENTS if name == campaign.manifest.server else CLIENT_EVENTS)
            try:
                watch.until_ended()
            except CampaignError:
                campaign.left = False
                raise
            campaign.left = False


def end(place: Place, view: View) -> None:
    """Stop the campaign on a lab, the server first, and record it as interrupted; raises DeployError."""
    phases = Phases(view)
    with place.lab as inventory, assembled(inventory, place.connect, view, min_clients=0) as crew:
        campaign = _found(crew, phases)
        if not any(crew.facts[name].running for name in campaign.workers):
            raise HostError(campaign.server.host, "stop", "no campaign runs there")
        try:
            with recorded(campaign, RunDirectory.of(place.runs, campaign.manifest), phases):
                _stop(campaign, phases)
        except Stopped:
            return


def _stop(campaign: Campaign, phases: Phases) -> None:
    phases.begin("stop")
    campaign.server.stop()
    with stopped(campaign, CampaignWatch(phases.view.event), phases):
        raise Stopped("stopped by its user")


@contextmanager
def _looked_for(place: Place, crew: Crew) -> Iterator[dict[str, Remote]]:
    """Give ways to the clients' hosts that are out of reach; they are tried at each use."""
    hosts = {host.name: host for host in crew.inventory.clients if host.name in crew.absent}
    remotes = {name: LateRemote(name, partial(place.connect, host)) for name, host in hosts.items()}
    try:
        yield dict(remotes)
    finally:
        for remote in remotes.values():
            remote.close()


def _found(crew: Crew, phases: Phases, absent: Mapping[str, Remote] | None = None) -> Campaign:
    """Return the campaign that runs on the server's host, or the latest there that nobody has recorded.

    Its clients are those that are in reach, and those that are `absent` and took part.
    """
    phases.begin("look")
    crew.facts.update(crew.each(look_at_ours))
    server = crew.inventory.server.name
    remote, facts = crew.remotes[server], crew.facts[server]
    directory = next(_directories(crew), None)
    if directory is None:
        raise HostError(server, "look", "no campaign has run on this host")
    name = posixpath.basename(posixpath.dirname(directory))
    manifest = _manifest(remote, f"{facts.workdir}/campaigns/{name}/{server}/{MANIFEST_FILE}")
    remotes = {**{host: crew.remotes[host] for host in crew.facts}, **(absent or {})}
    workers = {host: _worker(manifest, host, remotes[host]) for host in manifest.hosts if host in remotes}
    return Campaign(manifest, workers)


def _directories(crew: Crew) -> Iterator[str]:
    """Yield the directories of processes to choose from: the server's that runs, a client's, the server's latest."""
    for host in crew.hosts:
        yield from crew.facts[host.name].running
    server = crew.inventory.server.name
    yield from (one.directory for one in host_statuses(crew.remotes[server], crew.facts[server]))


def _manifest(remote: Remote, path: str) -> Manifest:
    try:
        manifest = msgspec.json.decode(remote.read(["cat", path], step="look"), type=Manifest)
    except msgspec.MsgspecError as error:
        raise HostError(remote.host, "look", f"{path} is not a manifest of this version ({error})") from error
    if manifest.schema != SCHEMA_VERSION:
        raise HostError(
            remote.host, "look", f"{path} has schema {manifest.schema}, this version reads {SCHEMA_VERSION}"
        )
    return manifest


def _worker(manifest: Manifest, host: str, remote: Remote) -> Worker:
    record = manifest.hosts[host]
    facts = msgspec.convert(record.facts, Facts)
    return Worker(
        remote=remote,
        facts=facts,
        module=f"fl{record.role}",
        code=f"{facts.workdir}/code/{manifest.code_digest}",
        campaign=manifest.campaign,
    )
