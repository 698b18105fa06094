"""The life cycle of a campaign, top to bottom in one function: `up`.

Hosts, connect, look, push, start, run; then, whatever happened: stop, pull, and write down how it ended.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from deploy.bundle import Bundle, code_directory, make_bundle, push
from deploy.errors import CampaignError, DeployError, HostError, together
from deploy.facts import Facts, findings, look
from deploy.manifest import SCHEMA_VERSION, HostRecord, Manifest
from deploy.plan import make_plan
from deploy.remote.fanout import connect_all, fan_out
from deploy.rundir import RunDirectory
from deploy.versions import controller_versions
from deploy.watch import CLIENT_EVENTS, SERVER_EVENTS, CampaignWatch
from deploy.worker import Worker, running
from flcommon import events
from flcommon.process import STDERR_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from deploy.inventory import Host, Inventory
    from deploy.plan import Plan
    from deploy.playbook import Playbook
    from deploy.remote.protocol import Remote
    from deploy.view import View

    Remotes = Mapping[str, Remote]

STDERR_LINES = 10
NARROW = 8
"""Threads for bulk transfer, which is work for the CPU (see deploy.remote.fanout)."""


@dataclass(frozen=True)
class Request:
    """What `up` is asked for: a lab that can be entered, a playbook, and the directory that keeps runs."""

    lab: AbstractContextManager[Inventory]
    playbook: Playbook
    runs: Path
    connect: Callable[[Host], Remote]


@dataclass
class Phases:
    """The controller's own account: how long each phase of the life cycle took, in seconds."""

    view: View
    seconds: dict[str, float] = field(default_factory=dict)
    _name: str = ""
    _since: float = 0.0

    def begin(self, name: str) -> None:
        """End the phase before, if any, and begin this one."""
        self.end()
        self._name, self._since = name, time.monotonic()
        self.view.phase(name)

    def end(self) -> None:
        """End the current phase."""
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + time.monotonic() - self._since
        self._name = ""


@dataclass(frozen=True)
class Connected:
    """The hosts of a lab as they are held during a command: a connection to each, and what a look found."""

    remotes: Remotes
    facts: Mapping[str, Facts]


@dataclass(frozen=True)
class Campaign:
    """One playbook on one lab whose hosts are connected, looked at, and have the code."""

    id: str
    created: datetime
    inventory: Inventory
    plan: Plan
    bundle: Bundle
    facts: Mapping[str, Facts]
    workers: Mapping[str, Worker]

    @property
    def server(self) -> Worker:
        """The server's process."""
        return self.workers[self.inventory.server.name]

    @property
    def clients(self) -> dict[str, Worker]:
        """The clients' processes, in the order of the inventory."""
        return {host.name: self.workers[host.name] for host in self.inventory.clients}


def up(request: Request, view: View) -> None:
    """Run a playbook on a lab; `view.run` is told where the run is kept. Raises DeployError.

    Whatever happens, everything that was started is stopped, and everything that was measured is pulled.
    """
    phases = Phases(view)
    phases.begin("hosts")
    with request.lab as inventory:
        view.hosts([host.name for host in inventory.hosts])
        phases.begin("connect")
        with connect_all(inventory.hosts, request.connect) as remotes:
            phases.begin("look")
            facts = look_at(inventory, remotes, request.playbook.app, view)
            phases.begin("push")
            bundle = push_code(remotes, facts, view)
            campaign = prepare(request.playbook, inventory, bundle, Connected(remotes, facts))
            watch = CampaignWatch(view.event)
            with recorded(campaign, request.runs, phases), stopped(campaign, watch, phases):
                phases.begin("start")
                start(campaign, watch)
                phases.begin("run")
                watch.until_ended()


def look_at(inventory: Inventory, remotes: Remotes, app: str, view: View) -> dict[str, Facts]:
    """Look at all hosts at once; raises DeployError if anything stands in the way of a run."""
    hosts = {host.name: host for host in inventory.hosts}
    facts = fan_out(remotes, lambda remote: look(hosts[remote.host], remote))
    for name, found in facts.items():
        view.host(name, f"{found.system} {found.machine}, Python {found.python_version}")
    wrong = {
        name: HostError(name, "look", f"{finding.what}; {finding.fix}")
        for name, found in facts.items()
        for finding in findings(found, app)
        if finding.level == "error"
    }
    if wrong:
        raise together(wrong)
    _refuse_busy(inventory, remotes, facts)
    return facts


def _refuse_busy(inventory: Inventory, remotes: Remotes, facts: Mapping[str, Facts]) -> None:
    """Raise DeployError if a campaign of ours runs on a host already: two at once would measure each other."""
    alive = fan_out(remotes, lambda remote: running(remote, facts[remote.host]))
    busy = {
        host: HostError(
            host, "look", f"a campaign runs there already ({found[0]}); end it with: deploy down {inventory.file}"
        )
        for host, found in alive.items()
        if found
    }
    if busy:
        raise together(busy)


def push_code(remotes: Remotes, facts: Mapping[str, Facts], view: View) -> Bundle:
    """Push the code of this installation where it is missing; raises DeployError."""
    bundle = make_bundle()
    sent = fan_out(remotes, lambda remote: push(remote, facts[remote.host], bundle), width=NARROW)
    for name, new in sent.items():
        view.host(name, f"code {bundle.digest} {'pushed' if new else 'is there'}")
    return bundle


def prepare(playbook: Playbook, inventory: Inventory, bundle: Bundle, hosts: Connected) -> Campaign:
    """Make the plan, and a worker for each host; starts nothing."""
    created = datetime.now(UTC)
    name = f"{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    workers = {
        host.name: Worker(
            remote=hosts.remotes[host.name],
            facts=hosts.facts[host.name],
            module=f"fl{host.role}",
            code=code_directory(hosts.facts[host.name], bundle),
            campaign=name,
        )
        for host in inventory.hosts
    }
    plan = make_plan(playbook, [host.name for host in inventory.clients])
    return Campaign(name, created, inventory, plan, bundle, hosts.facts, workers)


def start(campaign: Campaign, watch: CampaignWatch) -> None:
    """Start the server, wait until it listens, then start all clients; returns when the campaign runs."""
    plan, server = campaign.plan, campaign.server
    listen = listen_address(campaign.inventory.server_address)
    server.start(plan.server_job(campaign.id, host=server.host, listen=listen))
    watch.follow(server, SERVER_EVENTS)
    listening = watch.until(events.Listening)
    address = client_address(campaign.inventory.server_address, listening)

    def start_client(worker: Worker) -> None:
        worker.start(plan.client_job(campaign.id, host=worker.host, server_address=address))

    fan_out(campaign.clients, start_client)
    for worker in campaign.clients.values():
        watch.follow(worker, CLIENT_EVENTS)
    watch.until(events.CampaignStarted)


def listen_address(server_address: str) -> str:
    """Return where the server listens: on the address that clients use if it is a literal one, else on all."""
    host, _, port = server_address.rpartition(":")
    literal = host.startswith("[") or host.replace(".", "").isdigit()
    return server_address if literal else f"[::]:{port}"


def client_address(server_address: str, listening: events.Listening) -> str:
    """Return where clients find the server: the inventory's host, and the port that was really taken."""
    return f"{server_address.rpartition(':')[0]}:{listening.address.rpartition(':')[2]}"


@contextmanager
def stopped(campaign: Campaign, watch: CampaignWatch, phases: Phases) -> Iterator[None]:
    """See to it that every process of the campaign has ended when the with-block is left."""
    try:
        yield
    finally:
        phases.begin("stop")
        left = {host: worker for host, worker in campaign.workers.items() if not watch.has_ended(host)}
        _try_all(left, Worker.stop, phases.view)
        watch.join()


@contextmanager
def recorded(campaign: Campaign, runs: Path, phases: Phases) -> Iterator[None]:
    """Keep a run directory: the manifest from the start, at the end the logs and how it ended."""
    lab, playbook = campaign.inventory.lab, campaign.plan.playbook.playbook
    run = RunDirectory.create(runs, lab, playbook, campaign.created)
    phases.view.run(run.path, campaign.plan)
    manifest = describe(campaign)
    run.write(manifest)
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        phases.begin("pull")
        _try_all(campaign.workers, lambda worker: worker.pull(run.raw(worker.host)), phases.view)
        phases.end()
        if isinstance(error, CampaignError):
            error.add_output(run.raw(error.host) / STDERR_FILE, STDERR_LINES)
        _conclude(run, _ended(manifest, error, phases), error, phases.view)


def describe(campaign: Campaign) -> Manifest:
    """Return the manifest of a campaign that begins."""
    playbook = campaign.plan.playbook
    return Manifest(
        schema=SCHEMA_VERSION,
        campaign=campaign.id,
        lab=campaign.inventory.lab,
        playbook=playbook.playbook,
        app=playbook.app,
        created_utc=f"{campaign.created:%Y-%m-%dT%H:%M:%SZ}",
        status="running",
        error=None,
        versions=controller_versions(),
        code_digest=campaign.bundle.digest,
        inventory=msgspec.to_builtins(campaign.inventory, enc_hook=str),
        playbook_resolved=playbook.resolved,
        hosts={
            host.name: HostRecord(role=host.role, facts=msgspec.to_builtins(campaign.facts[host.name]))
            for host in campaign.inventory.hosts
        },
        trials=campaign.plan.trials,
        phases_s={},
    )


def _ended(manifest: Manifest, error: BaseException | None, phases: Phases) -> Manifest:
    if error is None:
        return msgspec.structs.replace(manifest, status="complete", phases_s=phases.seconds)
    if isinstance(error, KeyboardInterrupt):
        return msgspec.structs.replace(manifest, status="interrupted", phases_s=phases.seconds)
    said = str(error) if isinstance(error, DeployError) else type(error).__name__
    return msgspec.structs.replace(manifest, status="failed", error=said, phases_s=phases.seconds)


def _conclude(run: RunDirectory, manifest: Manifest, error: BaseException | None, view: View) -> None:
    """Write the manifest's last state; that it cannot be written hides no earlier error."""
    try:
        run.write(manifest)
    except DeployError as failure:
        if error is None:
            raise
        view.note(str(failure))


def _try_all(workers: Mapping[str, Worker], work: Callable[[Worker], object], view: View) -> None:
    """Do something on all hosts while undoing: a host that fails is noted, and hides no earlier error."""
    try:
        fan_out(workers, work)
    except DeployError as error:
        view.note(str(error))
