"""Runs on a host as a part of other scripts: asks the system's own tools, none of which may take long."""

from __future__ import annotations

import os
import subprocess

COMMAND_S = 3.0
"""No tool may hold up the look for longer."""
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where `tc` and `iw` are, and where the path of a user who is not root does not lead."""


def told(*argv: str) -> str | None:
    """Return what a command says; None if there is no such command, or if it fails."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=True, env=environment()
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def environment() -> dict[str, str]:
    """Return the environment of commands: answers in English, tools of administrators on the path."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))
    return dict(os.environ, LC_ALL="C", PATH=path)
