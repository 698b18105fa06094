"""Times a message on its way into gRPC: the instructions of the server, the replies of a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flcommon.events import MessageSent, Place, Redelivered, ReplySent

if TYPE_CHECKING:
    from flcommon.eventlog import EventLog, Moment
    from flcommon.outbox import Offered


@dataclass(frozen=True)
class Sending:
    """A message, built and encoded at these moments; logs what becomes of it (flcommon.outbox.Watch).

    The connection that it has gone into is looked at right after.
    """

    event: type[MessageSent | ReplySent]
    place: Place
    log: EventLog
    sampler: Sampler
    size_bytes: int
    built: Moment
    encoded: Moment

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
        self.sampler.beside(event, how.first)

    def redelivered(self, start: int, size_bytes: int) -> None:
        """Log that it goes into a new connection."""
        self.log.write(Redelivered(**self.place, offset=start, size_bytes=size_bytes))
