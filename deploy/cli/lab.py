"""Commands about hosts that the toolkit starts on this machine and that outlive a command: lab up, down, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from deploy.cli.frame import app, errors
from deploy.cli.labs import netns_only

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

NetnsInventory = Annotated[
    Path | None, typer.Argument(metavar="[INVENTORY]", help="YAML file of a netns lab; without it: all of them.")
]


@lab_app.command(
    "up",
    epilog="""
Examples:

    deploy lab up inventory/netns.yaml
""",
)
def lab_up(inventory: Annotated[Path, typer.Argument(metavar="INVENTORY", help="YAML file of a netns lab.")]) -> None:
    """Start the hosts of a netns lab; they stay until `deploy lab down`, whatever happens to this command."""
    with errors():
        from deploy.providers.netns import lab as netns  # noqa: PLC0415 - keeps --help fast

        hosts = netns.lab_up(netns_only(inventory))
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
    with errors():
        from deploy.providers.netns import lab as netns  # noqa: PLC0415 - keeps --help fast

        ended = netns.lab_down(None if inventory is None else netns_only(inventory).lab)
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
    with errors():
        from deploy.providers.netns import lab as netns  # noqa: PLC0415 - keeps --help fast

        wanted = None if inventory is None else netns_only(inventory).lab
        shown = [lab for lab in netns.lasting_labs() if wanted in (None, lab.plan.request.lab)]
        for lab in shown:
            hosts = ", ".join(f"{name} {host.address}" for name, host in lab.hosts.items())
            Console().print(Text(f"{lab.plan.request.lab}: {hosts}"), soft_wrap=True)
        if not shown:
            Console().print("no netns lab is up")
