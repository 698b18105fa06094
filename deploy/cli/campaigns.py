"""Commands that change a lab: up, attach, stop, down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from deploy.cli.frame import InventoryFile, PlaybookFile, RealInventory, RunsDirectory, app, errors, logging_in
from deploy.cli.labs import any_lab, entered, inputs, real_lab, standing, staying, why_gone
from deploy.cli.recording import recording
from deploy.errors import together

if TYPE_CHECKING:
    from deploy.cli.labs import AnyLab
    from deploy.playbook import Playbook
    from deploy.progress import Progress
    from deploy.remote.ssh import Connector


@app.command(
    epilog="""
Examples:

    deploy up                                          the study's figure on a virtual lab, in about a minute

    deploy up inventory/lab.yaml                       on your own machines

    deploy up inventory/lab.yaml -p playbooks/paper.yaml

    deploy up --detach --min-clients 3 inventory/lab.yaml   overnight, with as many as are there
"""
)
def up(  # noqa: PLR0913 - a command's options
    inventory: InventoryFile = None,
    playbook: PlaybookFile = None,
    runs: RunsDirectory = Path("runs"),
    *,
    min_clients: Annotated[
        int | None,
        typer.Option("--min-clients", metavar="K", min=1, help="Go on without hosts that fail, if K clients are left."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="End a campaign that runs on the lab.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when the campaign runs; see attach.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Resolve the hosts' packages anew.")] = False,
) -> None:
    """Run a playbook on a lab, pull the logs, and write the report.

    Everything that is started is stopped, and what was measured is kept, also after Ctrl-C or a failure.
    """
    with errors():
        lab, chosen = inputs(inventory, playbook)
        _up(lab, Wishes(chosen, runs, min_clients, replace=replace, detach=detach, refresh=refresh))


@app.command(
    epilog="""
Examples:

    deploy attach inventory/lab.yaml                   watch what `up --detach`, or a laptop that slept, left running
"""
)
def attach(inventory: RealInventory, runs: RunsDirectory = Path("runs")) -> None:
    """Watch the campaign that runs on a lab to its end, pull its logs, and write the report.

    Any controller can do so. Ctrl-C leaves the campaign running; one that has ended meanwhile is recorded at once.
    """
    with errors("left running: attach again whenever you like"):
        from deploy.attach import Place, attach  # noqa: PLC0415 - keeps --help fast

        lab = real_lab(inventory)
        recording(lab.lab, lambda view, connect: attach(Place(entered(lab), runs, connect), view))


@app.command(
    epilog="""
Examples:

    deploy stop inventory/lab.yaml                     end the campaign that runs there, and keep what it measured
"""
)
def stop(inventory: RealInventory, runs: RunsDirectory = Path("runs")) -> None:
    """Stop the campaign that runs on a lab, pull its logs, and report on what was measured."""
    with errors():
        from deploy.attach import Place, end  # noqa: PLC0415 - keeps --help fast

        lab = real_lab(inventory)
        recording(lab.lab, lambda view, connect: end(Place(entered(lab), runs, connect), view))


@app.command(
    epilog="""
Examples:

    deploy down inventory/lab.yaml                     end what an `up` left running there

    deploy down --purge inventory/lab.yaml             and leave nothing of the toolkit on the hosts
"""
)
def down(
    inventory: InventoryFile = None,
    *,
    purge: Annotated[bool, typer.Option("--purge", help="Also remove code, environments and logs.")] = False,
) -> None:
    """Stop every process of the toolkit on a lab's hosts; with --purge, remove all that it keeps there.

    A virtual lab needs no `down`: its hosts are gone with the command that started them.
    """
    with errors():
        from deploy.takedown import take_down  # noqa: PLC0415 - keeps --help fast

        lab = any_lab(inventory)
        hosts = standing(lab)
        if hosts is None:
            Console().print(Text(f"{why_gone(lab)}: nothing to do"), soft_wrap=True)
            return
        with logging_in() as connect:
            done = take_down(hosts, connect, purge=purge)
        for name, told in done.results.items():
            Console().print(Text(f"{name}: {told}"), soft_wrap=True)
        if done.failures:
            raise together(done.failures)


@dataclass(frozen=True)
class Wishes:
    """What the user of `up` asks for, beside the lab."""

    playbook: Playbook
    runs: Path
    min_clients: int | None
    replace: bool
    detach: bool
    refresh: bool


def _up(lab: AnyLab, wishes: Wishes) -> None:
    """Run, and report on whatever was measured, whether the run ended well or not."""
    from deploy.campaign import Request, up  # noqa: PLC0415 - keeps --help fast

    hosts = entered(staying(lab) if wishes.detach else lab)

    def work(view: Progress, connect: Connector) -> None:
        request = Request(
            hosts,
            wishes.playbook,
            wishes.runs,
            connect,
            min_clients=wishes.min_clients,
            replace=wishes.replace,
            detach=wishes.detach,
            refresh=wishes.refresh,
        )
        up(request, view)

    recording(f"{lab.lab} · {wishes.playbook.playbook}", work, ended=not wishes.detach)
    if wishes.detach:
        Console().print(f"the campaign runs; watch it with: deploy attach {lab.file}", soft_wrap=True)
