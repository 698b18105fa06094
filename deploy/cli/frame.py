"""What all commands share: the app, their common arguments, errors as messages, and logging in."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from deploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from deploy.remote.asking import Secret
    from deploy.remote.ssh import Connector

EXIT_CODES = """
Exit status: 0 all went well · 1 an error on this machine · 2 a file or argument says something that cannot be ·
3 a host cannot be used · 4 the experiment failed on a host · 130 interrupted.
"""

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


class GaveUp(KeyboardInterrupt):
    """A second interrupt while what was started is being stopped."""


@contextlib.contextmanager
def errors(interrupted: str = "everything that was started is stopped") -> Iterator[None]:
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


@contextlib.contextmanager
def logging_in(
    interlude: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Iterator[Connector]:
    """Give what logs in to hosts; it may ask the person at the terminal, with nothing else drawn meanwhile."""
    from deploy.prompts import Terminal  # noqa: PLC0415 - keeps --help fast
    from deploy.remote.ssh import Connector  # noqa: PLC0415

    with Terminal() as terminal:

        def ask(prompt: str) -> Secret:
            if terminal is None:
                raise AssertionError(prompt)
            with interlude():
                return terminal(prompt)

        yield Connector(None if terminal is None else ask)
