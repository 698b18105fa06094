"""The `deploy` command: the only module that prints or exits."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from deploy.errors import DeployError, InputError, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType

    from deploy.inventory import Inventory, NetnsLab, VirtualLab
    from deploy.playbook import Playbook
    from deploy.progress import Progress

    AnyLab = Inventory | VirtualLab | NetnsLab

EXIT_CODES = """
Exit status: 0 all went well · 1 an error on this machine · 2 a file or argument says something that cannot be ·
3 a host cannot be used · 4 the experiment failed on a host · 130 interrupted.
"""


class LogFile(StrEnum):
    """The files that a process keeps on its host."""

    stderr = "stderr"
    stdout = "stdout"
    events = "events"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Run federated learning on real machines, and see where the time goes.",
    epilog=EXIT_CODES,
)

lab_app = typer.Typer(
    no_args_is_help=True,
    help="Hosts on this machine that outlive a command (provider: netns): start, show and end them.",
    epilog="""
Examples:

    deploy lab up inventory/netns.yaml                 then: deploy up inventory/netns.yaml, as often as you like

    deploy lab status

    deploy lab down
""",
)
app.add_typer(lab_app, name="lab")

InventoryFile = Annotated[
    Path | None,
    typer.Argument(metavar="[INVENTORY]", help="YAML file of the lab; without it: a virtual lab on this machine."),
]
PlaybookFile = Annotated[
    Path | None,
    typer.Option("--playbook", "-p", metavar="FILE", help="YAML file of the experiment; wins over the inventory's."),
]
RealInventory = Annotated[Path, typer.Argument(metavar="INVENTORY", help="YAML file of a lab of real hosts.")]
NetnsInventory = Annotated[
    Path | None, typer.Argument(metavar="[INVENTORY]", help="YAML file of a netns lab; without it: all of them.")
]
RunsDirectory = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Where runs are kept: DIR/<lab>/<playbook>-<UTC>/.")
]


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


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
    with _errors():
        lab, chosen = _inputs(inventory, playbook)
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
    with _errors("left running: attach again whenever you like"):
        from deploy.attach import Place, attach  # noqa: PLC0415 - keeps --help fast
        from deploy.remote.ssh import connect  # noqa: PLC0415

        lab = _real_lab(inventory)
        place = Place(_enter(lab), runs, connect)
        _recording(lab.lab, lambda view: attach(place, view))


@app.command(
    epilog="""
Examples:

    deploy stop inventory/lab.yaml                     end the campaign that runs there, and keep what it measured
"""
)
def stop(inventory: RealInventory, runs: RunsDirectory = Path("runs")) -> None:
    """Stop the campaign that runs on a lab, pull its logs, and report on what was measured."""
    with _errors():
        from deploy.attach import Place, end  # noqa: PLC0415 - keeps --help fast
        from deploy.remote.ssh import connect  # noqa: PLC0415

        lab = _real_lab(inventory)
        place = Place(_enter(lab), runs, connect)
        _recording(lab.lab, lambda view: end(place, view))


@app.command(
    epilog="""
Examples:

    deploy check inventory/lab.yaml                    can a run start there?

    deploy check --json inventory/lab.yaml             the same for scripts, with all that is known of the hosts
"""
)
def check(
    inventory: InventoryFile = None,
    playbook: PlaybookFile = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the list.")] = False,
) -> None:
    """Look at all hosts of a lab, change nothing, and say what stands in the way of a run, with the fix."""
    with _errors():
        from deploy.checking import check_lab  # noqa: PLC0415 - keeps --help fast
        from deploy.checklist import document, page  # noqa: PLC0415
        from deploy.remote.ssh import connect  # noqa: PLC0415

        lab, chosen = _inputs(inventory, playbook)
        with _enter(lab) as hosts:
            checked = check_lab(hosts, chosen.app, connect)
        if json:
            sys.stdout.write(document(checked) + "\n")
        else:
            Console().print(page(checked), crop=False)
        if not checked.ok:
            raise typer.Exit(3)


@app.command(
    epilog="""
Examples:

    deploy status inventory/lab.yaml                   what runs there, or how the last campaign ended
"""
)
def status(inventory: RealInventory) -> None:
    """Say what the toolkit's processes on a lab's hosts do, or how the last of them ended. Changes nothing."""
    with _errors():
        from deploy.inspection import lab_status  # noqa: PLC0415 - keeps --help fast
        from deploy.remote.ssh import connect  # noqa: PLC0415

        report = lab_status(_real_lab(inventory), connect)
        Console().print(report.table)
        if not report.ok:
            raise typer.Exit(3)


@app.command(
    epilog="""
Examples:

    deploy logs inventory/lab.yaml pi4-a               the end of what its process wrote to stderr

    deploy logs -f --file events inventory/lab.yaml server
"""
)
def logs(
    inventory: RealInventory,
    host: Annotated[str, typer.Argument(metavar="HOST", help="A host's name in the inventory.")],
    file: Annotated[LogFile, typer.Option("--file", help="Which of the process's files.")] = LogFile.stderr,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines from the end.")] = 20,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the process has ended.")] = False,
) -> None:
    """Show the end of a log of the latest process on a host."""
    with _errors():
        from deploy.inspection import FILES, show_log  # noqa: PLC0415 - keeps --help fast
        from deploy.remote.ssh import connect  # noqa: PLC0415
        from deploy.worker import Tail  # noqa: PLC0415

        lab = _real_lab(inventory)
        known = {one.name: one for one in lab.hosts}
        if host not in known:
            raise InputError(inventory, f"no host {host!r}; known hosts: {', '.join(known)}")
        wanted = Tail(directory="", name=FILES[file.value], lines=lines, follow=follow)
        show_log(known[host], connect, wanted, lambda line: Console().print(Text(line), soft_wrap=True))


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
    with _errors():
        from deploy.remote.ssh import connect  # noqa: PLC0415 - keeps --help fast
        from deploy.takedown import take_down  # noqa: PLC0415

        lab = _lab(inventory)
        hosts = _standing(lab)
        if hosts is None:
            Console().print(Text(f"{_why_gone(lab)}: nothing to do"), soft_wrap=True)
            return
        done = take_down(hosts, connect, purge=purge)
        for name, told in done.results.items():
            Console().print(Text(f"{name}: {told}"), soft_wrap=True)
        if done.failures:
            raise together(done.failures)


@lab_app.command(
    "up",
    epilog="""
Examples:

    deploy lab up inventory/netns.yaml
""",
)
def lab_up(inventory: Annotated[Path, typer.Argument(metavar="INVENTORY", help="YAML file of a netns lab.")]) -> None:
    """Start the hosts of a netns lab; they stay until `deploy lab down`, whatever happens to this command."""
    with _errors():
        from deploy.providers import netns  # noqa: PLC0415 - keeps --help fast

        hosts = netns.lab_up(_netns_lab(inventory))
        for host in hosts.hosts:
            key, known = host.ssh.identity_file, host.ssh.known_hosts
            login = f"ssh -i {key} -o UserKnownHostsFile={known} {host.ssh.user}@{host.host}"
            Console().print(Text(f"{host.name}: {login}"), soft_wrap=True)


@lab_app.command(
    "down",
    epilog="""
Examples:

    deploy lab down                                    all that are up, and what killed ones left
""",
)
def lab_down(inventory: NetnsInventory = None) -> None:
    """End the hosts of a netns lab, with everything that runs and lies on them."""
    with _errors():
        from deploy.providers import netns  # noqa: PLC0415 - keeps --help fast

        ended = netns.lab_down(None if inventory is None else _netns_lab(inventory).lab)
        for name in ended:
            Console().print(Text(f"{name}: ended"))
        if not ended:
            Console().print("no netns lab was up")


@lab_app.command(
    "status",
    epilog="""
Examples:

    deploy lab status                                  all that are up, with the hosts' addresses
""",
)
def lab_status(inventory: NetnsInventory = None) -> None:
    """Show the netns labs that are up on this machine."""
    with _errors():
        from deploy.providers import netns  # noqa: PLC0415 - keeps --help fast

        wanted = None if inventory is None else _netns_lab(inventory).lab
        shown = [lab for lab in netns.lasting_labs() if wanted in (None, lab.plan.request.lab)]
        for lab in shown:
            hosts = ", ".join(f"{name} {host.address}" for name, host in lab.hosts.items())
            Console().print(Text(f"{lab.plan.request.lab}: {hosts}"), soft_wrap=True)
        if not shown:
            Console().print("no netns lab is up")


@app.command(
    epilog="""
Examples:

    deploy report runs/virtual/quick-figure-4-20260131T120000Z
"""
)
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]) -> None:
    """Write a run's report again, from its manifest and raw logs alone."""
    with _errors():
        _report(run, None)


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
    from deploy.remote.ssh import connect  # noqa: PLC0415

    if wishes.detach and _standing(lab) is None:
        raise InputError(lab.file, f"--detach needs hosts that stay: {_why_gone(lab)}", key="provider")
    request = Request(
        _enter(lab),
        wishes.playbook,
        wishes.runs,
        connect,
        min_clients=wishes.min_clients,
        replace=wishes.replace,
        detach=wishes.detach,
        refresh=wishes.refresh,
    )
    _recording(f"{lab.lab} · {wishes.playbook.playbook}", lambda view: up(request, view), ended=not wishes.detach)
    if wishes.detach:
        Console().print(f"the campaign runs; watch it with: deploy attach {lab.file}", soft_wrap=True)


def _recording(title: str, work: Callable[[Progress], None], *, ended: bool = True) -> None:
    """Do something that records a run, showing progress; report on what has `ended`, and on what failed."""
    from deploy.progress import Progress  # noqa: PLC0415 - keeps --help fast

    started = time.monotonic()
    progress = Progress(Console(), title)
    try:
        with progress, _patient(progress):
            work(progress)
    except (DeployError, KeyboardInterrupt):
        if progress.directory is not None and not _is_running(progress.directory):
            with contextlib.suppress(DeployError):
                _report(progress.directory, None)
        raise
    if ended and progress.directory is not None:
        _report(progress.directory, started)


def _is_running(run: Path) -> bool:
    """Whether a campaign was left running, so that there is nothing to report on yet."""
    from deploy.analysis.dataset import read_manifest  # noqa: PLC0415 - keeps --help fast

    return read_manifest(run).status == "running"


def _report(run: Path, started: float | None) -> None:
    from deploy.analysis.report import write_report  # noqa: PLC0415 - keeps --help fast
    from deploy.summary import print_summary  # noqa: PLC0415

    summary = write_report(run)
    print_summary(Console(), summary, None if started is None else time.monotonic() - started)


def _inputs(inventory: Path | None, playbook: Path | None) -> tuple[AnyLab, Playbook]:
    """Read both files before anything is started."""
    from deploy import defaults  # noqa: PLC0415 - keeps --help fast
    from deploy.playbook import load_playbook  # noqa: PLC0415

    lab = _lab(inventory)
    if playbook is None and lab.playbook is not None and not lab.playbook.exists():
        raise InputError(lab.file, f"no such file: {lab.playbook}", key="playbook")
    return lab, load_playbook(playbook or lab.playbook or defaults.playbook_path())


def _lab(inventory: Path | None) -> AnyLab:
    from deploy import defaults  # noqa: PLC0415 - keeps --help fast
    from deploy.inventory import load_inventory  # noqa: PLC0415

    return load_inventory(inventory or defaults.inventory_path())


def _real_lab(inventory: Path) -> Inventory:
    """Return a lab whose hosts outlive the command; raises InputError for a virtual one, or one that is not up."""
    lab = _lab(inventory)
    hosts = _standing(lab)
    if hosts is None:
        raise InputError(lab.file, _why_gone(lab), key="provider")
    return hosts


def _standing(lab: AnyLab) -> Inventory | None:
    """Return the hosts of a lab that are there without this command: real ones, or those of `deploy lab up`."""
    from deploy.inventory import NetnsLab, VirtualLab  # noqa: PLC0415 - keeps --help fast

    if isinstance(lab, NetnsLab):
        from deploy.providers.netns import find_lab  # noqa: PLC0415

        return find_lab(lab)
    return None if isinstance(lab, VirtualLab) else lab


def _why_gone(lab: AnyLab) -> str:
    """Say why a lab that the toolkit starts has no hosts now."""
    from deploy.inventory import NetnsLab  # noqa: PLC0415 - keeps --help fast

    if isinstance(lab, NetnsLab):
        return f"lab {lab.lab} is not up (deploy lab up {lab.file})"
    return "a virtual lab's hosts are gone with the command that started them"


def _netns_lab(inventory: Path) -> NetnsLab:
    """Return a lab of network namespaces; raises InputError for any other."""
    from deploy.inventory import NetnsLab  # noqa: PLC0415 - keeps --help fast

    lab = _lab(inventory)
    if not isinstance(lab, NetnsLab):
        raise InputError(lab.file, "`deploy lab` is for `provider: netns`; other hosts are not its business")
    return lab


def _enter(lab: AnyLab) -> AbstractContextManager[Inventory]:
    """Return the lab's hosts as something to enter: a virtual lab starts them, and so does a netns lab if need be."""
    from deploy.inventory import NetnsLab, VirtualLab  # noqa: PLC0415 - keeps --help fast
    from deploy.providers.netns import netns_lab  # noqa: PLC0415
    from deploy.providers.virtual import virtual_lab  # noqa: PLC0415

    if isinstance(lab, NetnsLab):
        return netns_lab(lab)
    return virtual_lab(lab) if isinstance(lab, VirtualLab) else contextlib.nullcontext(lab)


class GaveUp(KeyboardInterrupt):
    """A second interrupt while what was started is being stopped."""


@contextlib.contextmanager
def _patient(progress: Progress) -> Iterator[None]:
    """Let Ctrl-C (or SIGTERM) end a campaign in good order: in that time one more warns, a second gives up."""
    warned = False

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal warned
        if not progress.undoing:
            progress.undoing = True
            raise KeyboardInterrupt
        if warned:
            raise GaveUp
        warned = True
        progress.note("stopping what was started and pulling its logs; interrupt once more to leave it as it is")

    before = [(number, signal.signal(number, interrupt)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextlib.contextmanager
def _errors(interrupted: str = "everything that was started is stopped") -> Iterator[None]:
    """Turn the toolkit's errors into a message and an exit status."""
    try:
        yield
    except DeployError as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(error.exit_code)
    except GaveUp:
        Console(stderr=True).print("given up: processes may still run on the hosts; end them with: deploy down")
        sys.exit(130)
    except KeyboardInterrupt:
        Console(stderr=True).print(f"interrupted: {interrupted}")
        sys.exit(130)
