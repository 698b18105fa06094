"""The `deploy` command: the only package that prints or exits. One module per group of commands."""

from __future__ import annotations

import signal

from deploy.cli import campaigns, inspecting, lab  # noqa: F401 - their commands register themselves, in this order
from deploy.cli.frame import EXIT_CODES, app

__all__ = ["EXIT_CODES", "app", "main"]


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
