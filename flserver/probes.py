"""Answers the clients' probes: pings them as they ask, and takes and gives loads that mean nothing.

The server's side of a measurement that a client leads (`flclient.probe`); it draws no conclusion.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flcommon import wire

if TYPE_CHECKING:
    from flcommon.inbox import Heard
    from flcommon.outbox import Outbox

LATE_S = 5.0
"""For how long a ping that is not answered is waited for, after the last was sent."""
MOST_LOAD_BYTES = 64 << 20


@dataclass
class Probe:
    """One probe of one client, as it goes on; differences in ns of raw stamps, receiver's minus sender's."""

    asked: wire.Ask
    down_ns: list[int] = field(default_factory=list)
    up_ns: list[int] = field(default_factory=list)
    loads_ns: list[int] = field(default_factory=list)
    complete: threading.Event = field(default_factory=threading.Event)

    @property
    def found(self) -> wire.Found:
        """What it has come to."""
        return wire.Found(self.asked.probe, tuple(self.down_ns), tuple(self.up_ns), tuple(self.loads_ns))


class Probes:
    """The probes of one client, one at a time: who asks again has given up the one before."""

    def __init__(self, client: str, outbox: Outbox) -> None:
        self._client = client
        self._outbox = outbox
        self._probe: Probe | None = None

    def ask(self, asked: wire.Ask) -> None:
        """Begin a probe; raises ProtocolError for one that no client of ours would ask for."""
        if asked.loads * asked.size_bytes > MOST_LOAD_BYTES:
            raise wire.ProtocolError(f"a probe of {asked.loads} times {asked.size_bytes} bytes")
        self._probe = probe = Probe(asked)
        if asked.pings:
            threading.Thread(target=self._ping, args=(probe,), name=f"probe-{self._client}", daemon=True).start()

    def pong(self, pong: wire.Pong, heard: Heard[wire.FromClient]) -> None:
        """Take in the answer to a ping of a probe."""
        probe = self._current(pong.probe)
        if probe is None:
            return
        probe.down_ns.append(pong.received.mono_ns - pong.asked.mono_ns)
        probe.up_ns.append(heard.header.mono_ns - heard.sent.mono_ns)
        if len(probe.up_ns) == probe.asked.pings:
            probe.complete.set()

    def load(self, load: wire.Load, heard: Heard[wire.FromClient]) -> None:
        """Take in a load; after the last, give as many."""
        probe = self._current(load.probe)
        if probe is None:
            return
        probe.loads_ns.append(heard.last.mono_ns)
        if len(probe.loads_ns) == probe.asked.loads:
            body = (bytes(probe.asked.size_bytes),)
            for index in range(probe.asked.loads):
                self._outbox.post(wire.Load(load.probe, index), body)
            self._outbox.post(probe.found)

    def _current(self, number: int) -> Probe | None:
        return self._probe if self._probe is not None and self._probe.asked.probe == number else None

    def _ping(self, probe: Probe) -> None:
        """Ping at an even pace, whether or not answers come; then wait for those that are on their way."""
        began = time.monotonic()
        for number in range(probe.asked.pings):
            wait_s = began + number * probe.asked.every_ms / 1000 - time.monotonic()
            if wait_s > 0 and probe.complete.wait(wait_s):
                break
            self._outbox.mention(wire.Ping(probe.asked.probe))
        probe.complete.wait(LATE_S)
        if self._current(probe.asked.probe) is probe:
            self._outbox.post(probe.found)
