"""One process of a campaign on its host, as the controller drives it: start, watch, stop, pull.

The verbs run at the far end in `flcommon.commands`, from the pushed bundle, and in `deploy.pull`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy.errors import HostError
from deploy.pull import PulledFile, Wanted, pull
from flcommon.decoding import decoded
from flcommon.process import EVENTS_FILE, EXIT_FILE, JOB_FILE, PROCESS_FILE, STDERR_FILE, STDOUT_FILE
from flcommon.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deploy.facts import Facts
    from deploy.remote.protocol import Remote, Words
    from flcommon.process import Order

PULLED = (EVENTS_FILE, JOB_FILE, PROCESS_FILE, EXIT_FILE)
PULLED_ENDS = (STDOUT_FILE, STDERR_FILE)
"""What a process may write without end."""

_status_decoder = msgspec.json.Decoder(Status)


@dataclass(frozen=True)
class Tail:
    """The end of one of a process's files on its host; `follow`: and what comes, until the process has ended."""

    directory: str
    name: str
    lines: int
    follow: bool


@dataclass(frozen=True)
class Worker:
    """A host's share of a campaign: flserver or flclient in a directory of its own, run from the code directory."""

    remote: Remote
    facts: Facts
    module: str
    code: str
    campaign: str

    @property
    def host(self) -> str:
        """The host's name in the inventory."""
        return self.remote.host

    @property
    def directory(self) -> str:
        """Where job, logs, pid and exit files are, on the host."""
        return f"{self.facts.workdir}/campaigns/{self.campaign}/{self.host}"

    def run(self, order: Order, names: Sequence[str], on_line: Callable[[str], None]) -> None:
        """Start the process, detached, and go on as `watch` does, in one command; raises HostError."""
        argv = self._argv("run", self.module, *names)
        self.remote.run(argv, step="start", stdin=msgspec.json.encode(order), on_line=on_line)

    def again(self, names: Sequence[str], on_line: Callable[[str], None], *, after: int) -> None:
        """Start the process again where it has died, and go on as `watch` does; raises HostError.

        One that runs, or runs again already, is only watched: after a lost connection this may be asked once more.
        """
        self.remote.run(self._argv("again", self.module, f"{after}", *names), step="start", on_line=on_line)

    def watch(self, names: Sequence[str], on_line: Callable[[str], None], *, after: int = -1) -> None:
        """Pass on the events of these names after number `after`, and last the process's `Exit`; raises HostError."""
        self.remote.run(self._argv("watch", f"{after}", *names), step="watch", on_line=on_line)

    def converse(self, words: Words, on_line: Callable[[str], None]) -> None:
        """Say words to the host, each of which it answers by its clocks (`flcommon.conversing`); raises HostError.

        The process need not have been started yet.
        """
        self.remote.run(self._argv("converse"), step="clocks", stdin=words, on_line=on_line)

    def reach(self) -> None:
        """Return if the host answers; raises HostError."""
        self.remote.read(["true"], step="watch")

    def stop(self) -> None:
        """End the process, if it runs, and keep it from being started; raises HostError."""
        self.remote.run(self._argv("stop"), step="stop")

    def is_paused(self, number: int) -> bool:
        """Whether this process, the server's, holds the experiment for that pause right now; raises HostError."""
        return bool(self.remote.read(self._argv("paused", f"{number}"), step="pull"))

    def resume(self, number: int) -> None:
        """Let that pause end; raises HostError."""
        self.remote.run(self._argv("resume", f"{number}"), step="pull")

    def pull(self, into: Path, *, final: bool = True) -> dict[str, PulledFile]:
        """Copy what is new of the process's files into a directory (see `deploy.pull`); raises HostError."""
        wanted = Wanted(PULLED, PULLED_ENDS, final=final)
        return pull(self.remote, self.facts.python, self.directory, into, wanted)

    def _argv(self, verb: str, *words: str) -> list[str]:
        return command(self.facts, self.code, verb, self.directory, *words)


def stop(remote: Remote, facts: Facts, directory: str) -> None:
    """End the process of a directory of `facts.running`; raises HostError."""
    remote.run(command(facts, any_code(facts), "stop", directory), step="stop")


def host_statuses(remote: Remote, facts: Facts) -> list[Status]:
    """Return how our latest processes on a host stand, the latest first; raises HostError."""
    if not facts.code:
        return []
    argv = command(facts, any_code(facts), "status", f"{facts.workdir}/campaigns")
    try:
        return [
            decoded(_status_decoder.decode, line.encode()) for line in remote.read(argv, step="status").splitlines()
        ]
    except msgspec.MsgspecError as error:
        raise HostError(remote.host, "status", f"an answer that cannot be understood ({error})") from error


def host_tail(remote: Remote, facts: Facts, file: Tail, on_line: Callable[[str], None]) -> None:
    """Pass on the end of a process's file, and with `follow` what is added to it; raises HostError."""
    verb = "follow" if file.follow else "tail"
    argv = command(facts, any_code(facts), verb, file.directory, file.name, str(file.lines))
    remote.run(argv, step="logs", on_line=on_line)


def command(facts: Facts, code: str, *words: str) -> list[str]:
    """Return the argv of a verb of `flcommon.commands` on a host."""
    return ["env", f"PYTHONPATH={code}", facts.our_python, "-P", "-m", "flcommon.commands", *words]


def any_code(facts: Facts) -> str:
    """Return a bundle that is on the host already: processes are found and ended the same way by any."""
    return f"{facts.workdir}/code/{facts.code[-1]}"
