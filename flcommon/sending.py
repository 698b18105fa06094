"""Times a message on its way into gRPC: the instructions of the server, the replies of a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flcommon.events import MessageSent, Place, Redelivered, ReplySent

if TYPE_CHECKING:
    from collections.abc import Callable

    from flcommon.eventlog import EventLog, Moment
    from flcommon.outbox import Offered


@dataclass(frozen=True)
class Sending:
    """A message, built and encoded at these moments; logs what becomes of it (flcommon.outbox.Watch).

    `then` is told right after, to look at what it went by.
    """

    event: type[MessageSent | ReplySent]
    place: Place
    log: EventLog
    size_bytes: int
    built: Moment
    encoded: Moment
    then: Callable[[Place], None] | None = None

    def offered(self, how: Offered) -> None:
        """Log that all of it has gone into gRPC, as of its first byte."""
        event = self.event(
            **self.place,
            size_bytes=self.size_bytes,
            wire_bytes=how.wire_bytes,
            encode_s=self.built.until_s(self.encoded),
            queue_s=self.encoded.until_s(how.first),
            send_s=how.first.until_s(how.last),
        )
        self.log.write(event, how.first)
        if self.then is not None:
            self.then(self.place)

    def redelivered(self, start: int, size_bytes: int) -> None:
        """Log that it goes into a new connection."""
        self.log.write(Redelivered(**self.place, offset=start, size_bytes=size_bytes))
