"""The `deploy` command: the only module that prints or exits."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from deploy.errors import DeployError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import FrameType

    from deploy.inventory import Inventory, VirtualLab
    from deploy.playbook import Playbook
    from deploy.progress import Progress

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

InventoryFile = Annotated[
    Path | None,
    typer.Argument(metavar="[INVENTORY]", help="YAML file of the lab; without it: a virtual lab on this machine."),
]
PlaybookFile = Annotated[
    Path | None,
    typer.Option("--playbook", "-p", metavar="FILE", help="YAML file of the experiment; wins over the inventory's."),
]
RealInventory = Annotated[Path, typer.Argument(metavar="INVENTORY", help="YAML file of a lab of real hosts.")]
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
"""
)
def up(inventory: InventoryFile = None, playbook: PlaybookFile = None, runs: RunsDirectory = Path("runs")) -> None:
    """Run a playbook on a lab, pull the logs, and write the report.

    Everything that is started is stopped, and what was measured is kept, also after Ctrl-C or a failure.
    """
    with _errors():
        lab, chosen = _inputs(inventory, playbook)
        _up(lab, chosen, runs)


@app.command(
    epilog="""
Examples:

    deploy check inventory/lab.yaml                    can a run start there?
"""
)
def check(inventory: InventoryFile = None, playbook: PlaybookFile = None) -> None:
    """Look at all hosts of a lab, change nothing, and say what stands in the way of a run."""
    with _errors():
        from deploy.checking import check_lab  # noqa: PLC0415 - keeps --help fast
        from deploy.remote.ssh import connect  # noqa: PLC0415

        lab, chosen = _inputs(inventory, playbook)
        with _enter(lab) as hosts:
            report = check_lab(hosts, chosen.app, connect)
        Console().print(report.table)
        if not report.ok:
            raise typer.Exit(3)


@app.command(
    epilog="""
Examples:

    deploy trust inventory/lab.yaml                    compare the fingerprints, then let their keys be recorded
"""
)
def trust(
    inventory: RealInventory,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Record what is new without a question.")] = False,
) -> None:
    """Show the SSH host key of every host of a lab, and record those that are new in the lab's known_hosts.

    Logs in to jump hosts only. A key that has changed is never recorded: the command that forgets the old one is shown.
    """
    with _errors():
        from deploy.prompts import Terminal  # noqa: PLC0415 - keeps --help fast
        from deploy.remote.route import jump_hosts  # noqa: PLC0415
        from deploy.remote.ssh import Connector  # noqa: PLC0415
        from deploy.trust import Routes, record, survey  # noqa: PLC0415

        lab = _real_lab(inventory)
        with Terminal() as ask:
            routes = Routes(Connector(ask).host_key, jump_hosts)
            while True:  # once more after recording: what lies behind a jump host shows its key only then
                found = survey(lab, routes)
                Console().print(found.table)
                for note in found.notes:
                    Console(stderr=True).print(Text(note), soft_wrap=True)
                if not found.new or not (yes or _confirmed(f"Record {len(found.new)} new host keys as trusted?")):
                    break
                for file, count in record(found.new).items():
                    Console().print(Text(f"recorded in {file}: {count}"), soft_wrap=True)
        if not found.ok:
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
"""
)
def down(inventory: InventoryFile = None) -> None:
    """Stop every process of the toolkit on a lab's hosts.

    What was pushed stays. A virtual lab needs no `down`: its hosts are gone with the command that started them.
    """
    with _errors():
        from deploy.inventory import Inventory  # noqa: PLC0415 - keeps --help fast
        from deploy.remote.ssh import connect  # noqa: PLC0415
        from deploy.takedown import take_down  # noqa: PLC0415

        lab = _lab(inventory)
        if not isinstance(lab, Inventory):
            Console().print("A virtual lab's hosts are gone with the command that started them: nothing to do.")
            return
        for line in take_down(lab, connect):
            Console().print(Text(line))


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


def _confirmed(question: str) -> bool:
    """Ask; no answer is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


def _up(lab: Inventory | VirtualLab, playbook: Playbook, runs: Path) -> None:
    """Run, and report on whatever was measured, whether the run ended well or not."""
    from deploy.campaign import Request, up  # noqa: PLC0415 - keeps --help fast
    from deploy.progress import Progress  # noqa: PLC0415
    from deploy.remote.ssh import connect  # noqa: PLC0415

    started = time.monotonic()
    progress = Progress(Console(), f"{lab.lab} · {playbook.playbook}")
    try:
        with progress, _patient(progress):
            up(Request(_enter(lab), playbook, runs, connect), progress)
    except (DeployError, KeyboardInterrupt):
        if progress.directory is not None:
            with contextlib.suppress(DeployError):
                _report(progress.directory, None)
        raise
    if progress.directory is not None:
        _report(progress.directory, started)


def _report(run: Path, started: float | None) -> None:
    from deploy.analysis.report import write_report  # noqa: PLC0415 - keeps --help fast
    from deploy.summary import print_summary  # noqa: PLC0415

    summary = write_report(run)
    print_summary(Console(), summary, None if started is None else time.monotonic() - started)


def _inputs(inventory: Path | None, playbook: Path | None) -> tuple[Inventory | VirtualLab, Playbook]:
    """Read both files before anything is started."""
    from deploy import defaults  # noqa: PLC0415 - keeps --help fast
    from deploy.playbook import load_playbook  # noqa: PLC0415

    lab = _lab(inventory)
    if playbook is None and lab.playbook is not None and not lab.playbook.exists():
        raise InputError(lab.file, f"no such file: {lab.playbook}", key="playbook")
    return lab, load_playbook(playbook or lab.playbook or defaults.playbook_path())


def _lab(inventory: Path | None) -> Inventory | VirtualLab:
    from deploy import defaults  # noqa: PLC0415 - keeps --help fast
    from deploy.inventory import load_inventory  # noqa: PLC0415

    return load_inventory(inventory or defaults.inventory_path())


def _real_lab(inventory: Path) -> Inventory:
    """Return a lab whose hosts outlive the command; raises InputError for a virtual one."""
    from deploy.inventory import Inventory  # noqa: PLC0415 - keeps --help fast

    lab = _lab(inventory)
    if not isinstance(lab, Inventory):
        raise InputError(lab.file, "a virtual lab's hosts are gone with the command that started them", key="provider")
    return lab


def _enter(lab: Inventory | VirtualLab) -> AbstractContextManager[Inventory]:
    """Return the lab's hosts as something to enter: a virtual lab starts them."""
    from deploy.inventory import Inventory  # noqa: PLC0415 - keeps --help fast
    from deploy.providers.virtual import virtual_lab  # noqa: PLC0415

    return contextlib.nullcontext(lab) if isinstance(lab, Inventory) else virtual_lab(lab)


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
def _errors() -> Iterator[None]:
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
        Console(stderr=True).print("interrupted: everything that was started is stopped")
        sys.exit(130)
