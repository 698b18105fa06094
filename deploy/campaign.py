"""The life cycle of a campaign, top to bottom in one function: `up`.

Hosts, connect, look, prepare, push, start, run; then, whatever happened: stop, pull, and write down how it ended.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from deploy.authority import credentials
from deploy.bundle import code_directory
from deploy.clocks import conversing
from deploy.crew import assembled
from deploy.custody import Campaign, pull_quietly, recorded, stopped
from deploy.environment.kit import Kit
from deploy.manifest import SCHEMA_VERSION, HostRecord, Manifest
from deploy.phases import Phases
from deploy.plan import make_plan
from deploy.rundir import RunDirectory
from deploy.shaping import client_rules, wishes
from deploy.versions import controller_versions
from deploy.watch import CLIENT_EVENTS, SERVER_EVENTS, CampaignWatch
from deploy.worker import Worker
from flcommon import events
from flcommon.process import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from deploy.bundle import Bundle
    from deploy.crew import Crew
    from deploy.inventory import Host, Inventory
    from deploy.plan import Plan
    from deploy.playbook import Playbook
    from deploy.remote.protocol import Remote
    from deploy.view import View
    from flcommon.job import Tls

NO_TLS = (
    "transport.tls is off in the playbook: whoever reaches the server's port can join as any client, and whoever is on"
    " the network can read and change what is sent"
)


@dataclass(frozen=True)
class Request:
    """What `up` is asked for: a lab that can be entered, a playbook, and the directory that keeps runs.

    `min_clients`: with how many clients to go on when hosts fail before the start; None: only with all.
    `replace`: end a campaign that runs on the lab. `detach`: return when the campaign runs, and leave it running.
    `refresh`: resolve anew which versions of packages the hosts get.
    """

    lab: AbstractContextManager[Inventory]
    playbook: Playbook
    runs: Path
    connect: Callable[[Host], Remote]
    min_clients: int | None = None
    replace: bool = False
    detach: bool = False
    refresh: bool = False


def up(request: Request, view: View) -> None:
    """Run a playbook on a lab; `view.run` is told where the run is kept. Raises DeployError.

    Whatever happens, everything that was started is stopped, and everything that was measured is pulled.
    """
    phases = Phases(view)
    phases.begin("hosts")
    with request.lab as inventory:
        rules = client_rules(request.playbook, {host.name: host.labels for host in inventory.clients})
        wished = wishes(request.playbook, inventory.clients)
        view.hosts([host.name for host in inventory.hosts])
        phases.begin("connect")
        with assembled(inventory, request.connect, view, request.min_clients) as crew:
            phases.begin("look")
            crew.look(request.playbook.app, wished)
            crew.make_way(replace=request.replace)
            phases.begin("prepare")
            crew.prepare_python(Kit(request.playbook.app, refresh=request.refresh))
            phases.begin("push")
            bundle = crew.push_code(request.playbook.app)
            crew.prepare_links(bundle)
            if request.playbook.tls:
                crew.prepare_keys(bundle)
            else:
                view.note(NO_TLS)
            plan = make_plan(request.playbook, crew.clients, rules, crew.shaping)
            campaign = assign(plan, bundle, crew)
            run = RunDirectory.of(request.runs, campaign.manifest)
            watch = CampaignWatch(view.event, on_note=view.note, on_pause=pull_quietly(campaign, run, view))
            watch.on_host = view.host
            with recorded(campaign, run, phases), stopped(campaign, watch, phases), conversing(campaign, run, watch):
                phases.begin("start")
                start(campaign, plan, inventory.server_address, certified(campaign, plan, crew), watch)
                if request.detach:
                    campaign.left = True
                    return
                phases.begin("run")
                watch.until_ended()


def assign(plan: Plan, bundle: Bundle, crew: Crew) -> Campaign:
    """Give every host that takes part its share of the plan; starts nothing."""
    created = datetime.now(UTC)
    name = f"{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    workers = {
        host.name: Worker(
            remote=crew.remotes[host.name],
            facts=crew.facts[host.name],
            module=f"fl{host.role}",
            code=code_directory(crew.facts[host.name], bundle),
            campaign=name,
        )
        for host in crew.hosts
    }
    return Campaign(describe(name, created, plan, bundle, crew), workers)


def describe(name: str, created: datetime, plan: Plan, bundle: Bundle, crew: Crew) -> Manifest:
    """Return the manifest of a campaign that begins."""
    return Manifest(
        schema=SCHEMA_VERSION,
        campaign=name,
        lab=crew.inventory.lab,
        playbook=plan.playbook.playbook,
        app=plan.playbook.app.name,
        created_utc=f"{created:%Y-%m-%dT%H:%M:%SZ}",
        status="running",
        error=None,
        versions=controller_versions(),
        code_digest=bundle.digest,
        inventory=msgspec.to_builtins(crew.inventory, enc_hook=str),
        playbook_resolved=plan.playbook.resolved,
        hosts={
            # Without what says nothing of a measurement.
            host.name: HostRecord(role=host.role, facts=msgspec.to_builtins(replace(crew.facts[host.name], csr="")))
            for host in crew.hosts
        },
        trials=plan.trials,
        phases_s={},
        absent={host: str(error) for host, error in crew.absent.items()},
        tls=plan.playbook.tls,
        shaping=dict(plan.shaping),
    )


def certified(campaign: Campaign, plan: Plan, crew: Crew) -> Mapping[str, Tls]:
    """Return each host's part in the campaign's TLS; nothing if the playbook does without."""
    if not plan.playbook.tls:
        return {}
    return credentials(campaign.manifest.campaign, crew.inventory.server_address, crew.hosts, crew.facts)


def start(campaign: Campaign, plan: Plan, server_address: str, tls: Mapping[str, Tls], watch: CampaignWatch) -> None:
    """Start the server, wait until it listens, then start all clients; returns when the campaign runs."""
    name, server = campaign.manifest.campaign, campaign.server
    job = plan.server_job(name, host=server.host, listen=listen_address(server_address), tls=tls.get(server.host))
    watch.follow(server, SERVER_EVENTS, Order(_raw(job), _raw(campaign.manifest)))
    address = client_address(server_address, watch.until(events.Listening))
    for worker in campaign.clients.values():
        own = plan.client_job(name, host=worker.host, server_address=address, tls=tls.get(worker.host))
        watch.follow(worker, CLIENT_EVENTS, Order(_raw(own)))
    watch.until(events.CampaignStarted)


def listen_address(server_address: str) -> str:
    """Return where the server listens: on the address that clients use if it is a literal one, else on all."""
    host, _, port = server_address.rpartition(":")
    literal = host.startswith("[") or host.replace(".", "").isdigit()
    return server_address if literal else f"[::]:{port}"


def client_address(server_address: str, listening: events.Listening) -> str:
    """Return where clients find the server: the inventory's host, and the port that was really taken."""
    return f"{server_address.rpartition(':')[0]}:{listening.address.rpartition(':')[2]}"


def _raw(value: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
