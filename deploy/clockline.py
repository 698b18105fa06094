"""The run directory's `clocks.jsonl`: the controller's clocks compared with those of every host, an exchange a line."""

from __future__ import annotations

import msgspec

CLOCKS_FILE = "clocks.jsonl"


class ClockLine(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange with a host: the controller sent, the host received and answered, the controller had it back.

    Each moment by the monotonic and by the wall clock of the machine where it was, in ns. A controller that attaches
    later has monotonic clocks of its own: `sent_mono_ns` of its lines may be smaller than of lines before.
    """

    host: str
    sent_mono_ns: int
    sent_wall_ns: int
    received_mono_ns: int
    received_wall_ns: int
    answered_mono_ns: int
    answered_wall_ns: int
    back_mono_ns: int
    back_wall_ns: int
