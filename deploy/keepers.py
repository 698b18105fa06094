"""The kernel's layer of links on a host, as the controller meets it: whether it could shape one, and what one left.

It runs at the far end in `flclient.link.kernel`, with sudo where the login is not root's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from deploy.errors import CommandFailed
from deploy.worker import any_code
from flcommon.link import OUR_DEVICES

if TYPE_CHECKING:
    from deploy.facts import Facts
    from deploy.remote.protocol import Remote
    from flcommon.job import Shaping

STEP = "link"


class _Broke(msgspec.Struct):
    """Its last word where it cannot (`flclient.link.protocol.Broke`)."""

    reason: str


def unshape(remote: Remote, facts: Facts, code: str = "") -> list[str]:
    """Take off links that a killed process has left on a host, and return in words what that was; raises HostError.

    `code`: a bundle that is there, any by default. Those of a process that lives are left alone.
    """
    if not any(name.startswith(OUR_DEVICES) for name in facts.interfaces) or not (code or facts.code):
        return []
    told = remote.run([*_program(facts, code or any_code(facts)), "--clean"], step=STEP)
    return told.splitlines()


def obstacle(remote: Remote, facts: Facts, code: str, shaping: Shaping, server: str) -> str:
    """Return why this host's kernel cannot shape the link to `server` (address:port); empty if it can.

    It is tried, on a device of its own, and nothing of the host's is touched. Raises HostError.
    """
    setup = {"ask": "setup", "server": server, "interface": shaping.interface}
    try:
        remote.run([*_program(facts, code), "--check"], step=STEP, stdin=msgspec.json.encode(setup) + b"\n")
    except CommandFailed as error:
        for line in error.output.splitlines():
            try:
                return msgspec.json.decode(line, type=_Broke).reason
            except msgspec.MsgspecError:
                continue
        raise
    return ""


def _program(facts: Facts, code: str) -> list[str]:
    sudo = [] if facts.user == "root" else ["sudo", "-n", "--"]
    return [*sudo, "env", f"PYTHONPATH={code}", facts.our_python, "-P", "-m", "flclient.link.kernel"]
