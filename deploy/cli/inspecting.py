"""Commands that look: check, trust, status, logs, report, compare. None of them changes a host."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations when the program runs
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from deploy.cli.frame import InventoryFile, PlaybookFile, RealInventory, app, errors, logging_in
from deploy.cli.labs import entered, inputs, real_lab
from deploy.cli.recording import report_on
from deploy.errors import InputError


class Style(StrEnum):
    """What figures are made for."""

    page = "page"
    paper = "paper"


class LogFile(StrEnum):
    """The files that a process keeps on its host."""

    stderr = "stderr"
    stdout = "stdout"
    events = "events"


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
    with errors():
        from deploy.checking import check_lab  # noqa: PLC0415 - keeps --help fast
        from deploy.checklist import document, page  # noqa: PLC0415
        from deploy.shaping import wishes  # noqa: PLC0415

        lab, chosen = inputs(inventory, playbook)
        with entered(lab) as hosts, logging_in() as connect:
            wished = wishes(chosen, hosts.clients)
            checked = check_lab(hosts, chosen.app, connect, tls=chosen.tls, wished=wished)
        if json:
            sys.stdout.write(document(checked) + "\n")
        else:
            Console().print(page(checked), crop=False)
        if not checked.ok:
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
    with errors():
        from deploy.remote.route import jump_hosts  # noqa: PLC0415 - keeps --help fast
        from deploy.trust import Routes, record, survey  # noqa: PLC0415

        lab = real_lab(inventory)
        with logging_in() as connect:
            routes = Routes(connect.host_key, jump_hosts)
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
    with errors():
        from deploy.inspection import lab_status  # noqa: PLC0415 - keeps --help fast

        with logging_in() as connect:
            report = lab_status(real_lab(inventory), connect)
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
    with errors():
        from deploy.inspection import FILES, show_log  # noqa: PLC0415 - keeps --help fast
        from deploy.worker import Tail  # noqa: PLC0415

        lab = real_lab(inventory)
        known = {one.name: one for one in lab.hosts}
        if host not in known:
            raise InputError(inventory, f"no host {host!r}; known hosts: {', '.join(known)}")
        wanted = Tail(directory="", name=FILES[file.value], lines=lines, follow=follow)
        with logging_in() as connect:
            show_log(known[host], connect, wanted, lambda line: Console().print(Text(line), soft_wrap=True))


@app.command(
    epilog="""
Examples:

    deploy report runs/virtual/quick-20260131T120000Z

    deploy report RUN --style paper                    figures for a paper too: report/paper/

    deploy report RUN --csv                            the tables also as text: tables/*.csv
"""
)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    *,
    style: Annotated[
        Style, typer.Option("--style", help="Of figures; paper: also one and two columns wide, 8 pt, as pdf, svg, png.")
    ] = Style.page,
    csv: Annotated[bool, typer.Option("--csv", help="Write the tables as CSV too.")] = False,
) -> None:
    """Write a run's report again, from its manifest and raw logs alone."""
    with errors():
        report_on(run, csv=csv, paper=style is Style.paper)


@app.command(
    epilog="""
Examples:

    deploy compare runs/bench-1/paper-20260131T120000Z runs/bench-2/paper-20260202T090000Z

    deploy compare RUN RUN RUN --output strategies     the first is what the others are compared with
"""
)
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN…", help="Run directories; the first is the reference.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write; without it: ./compare-<first>-<second>/."),
    ] = None,
) -> None:
    """Compare runs condition by condition: two labs, two strategies, two versions of an app.

    Conditions are matched by their swept values; what else differs between the runs is shown first.
    """
    with errors():
        from deploy.analysis.comparing.write import write_comparison  # noqa: PLC0415 - keeps --help fast
        from deploy.comparison import print_comparison  # noqa: PLC0415

        print_comparison(Console(), write_comparison(runs, output))


def _confirmed(question: str) -> bool:
    """Ask; no answer is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False
