"""What the controller tells its user when something is wrong.

    flcommon.errors.FieldlabError
    └── DeployError                 exit code 1
        ├── InputError              exit code 2: a file says something that cannot be (file, line, key)
        ├── HostError               exit code 3: one host, one step
        │   ├── CommandFailed       … a remote command: argv, status, last lines of its output
        │   ├── HostKeyRefused      … its SSH host key is not known, or has changed
        │   ├── ConnectionLost      … the connection went away in the middle: what can be resumed may be tried again
        │   └── CampaignError       exit code 4: the experiment itself failed there
        └── LabError                exit code 3: several hosts, {host: error}

Foreign exceptions are translated where they arise, `raise … from`. Only `deploy.cli` prints or exits.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from flcommon.errors import FieldlabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TAIL_LINES = 10


class DeployError(FieldlabError):
    """Root of the controller's errors."""

    exit_code = 1


class InputError(DeployError):
    """A file says something that cannot be: names the file, the line (from 1) and the dotted key."""

    exit_code = 2

    def __init__(self, file: Path | str, message: str, *, line: int | None = None, key: str = "") -> None:
        self.file, self.line, self.key = file, line, key
        place = f"{file}:{line}" if line else f"{file}"
        super().__init__(f"{place}: {key}: {message}" if key else f"{place}: {message}")


class HostError(DeployError):
    """Something failed on one host at one step of the life cycle."""

    exit_code = 3

    def __init__(self, host: str, step: str, message: str) -> None:
        self.host, self.step, self.reason = host, step, message
        super().__init__(f"{host}: {step}: {message}")


class CommandFailed(HostError):
    """A remote command ended with a status other than zero."""

    def __init__(self, host: str, step: str, argv: Sequence[str], *, status: int, output: str) -> None:
        self.argv, self.status, self.output = tuple(argv), status, output
        tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-TAIL_LINES:])
        shown = " ".join("(script)" if "\n" in word else shlex.quote(word) for word in argv)
        super().__init__(host, step, f"exit status {status} from: {shown}" + (f"\n{tail}" if tail else ""))

    @property
    def briefly(self) -> str:
        """Say in one line why a host would not: the last that it said."""
        said = self.output.strip().splitlines()[-1:] or [f"exit status {self.status}"]
        return f"{self.host}: {self.step}: {said[0]}"


class HostKeyRefused(HostError):
    """A host showed an SSH host key that nobody has said is its own: `deploy trust` is the way on."""


class ConnectionLost(HostError):
    """The connection to a host went away in the middle of a step; its next use connects again."""


class LabError(DeployError):
    """Several hosts failed; `failures` holds each one's error, in the order of the inventory; `so` what follows."""

    exit_code = 3

    def __init__(self, failures: Mapping[str, DeployError], so: str = "") -> None:
        self.failures = dict(failures)
        super().__init__("\n".join([*(str(error) for error in self.failures.values()), *([so] if so else [])]))


def together(failures: Mapping[str, DeployError]) -> DeployError:
    """Return one error for what failed on one host or several (at least one): a single one stays as it is."""
    return next(iter(failures.values())) if len(failures) == 1 else LabError(failures)


class CampaignError(HostError):
    """The experiment failed on a host; what was measured until then is kept in the run directory."""

    exit_code = 4

    def add_output(self, stderr: Path, lines: int) -> None:
        """Show the last lines of what the process wrote to stderr, and where the rest is."""
        try:
            written = stderr.read_text(errors="replace").strip().splitlines()
        except OSError:
            return
        if written:
            tail = "\n".join(f"    {line}" for line in written[-lines:])
            self.args = (f"{self}\n  {stderr} ends with\n{tail}",)
