"""Turns what gRPC says on stderr of peers that it refused in the TLS handshake into `refused` events.

Such a peer never reaches Python: gRPC's core writes a line and nothing else. So this process's stderr, which on a host
is a file beside the log (`flcommon.process`), is read along. Nothing stands between a writer and that file: no line can
be lost, not even the last words of a crash. Imports no gRPC: how much it says is decided when it is first imported.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from flcommon.events import Refused
from flcommon.process import STDERR_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flcommon.eventlog import EventLog

EVERY_S = 1.0
_STDERR = 2
_PIECE_BYTES = 1 << 16
_LONGEST_LINE = 1 << 12

# "fatal" until gRPC 1.67; the words after the token since 1.74.
_FAILED = re.compile(rb"ssl_transport_security\.cc:\d+\]\s+Handshake failed with (?:fatal )?error (.*)")
_TOKEN = re.compile(r"OPENSSL_internal:(\w+)")
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "LENGTH_TOO_LONG", "UNEXPECTED_RECORD", "UNEXPECTED_MESSAGE")
_MEANINGS = (
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "it shows no certificate"),
    ("certificate has expired", "its certificate has expired, by this host's clock"),
    ("certificate is not yet valid", "its certificate is not valid yet, by this host's clock"),
    ("unsupported certificate purpose", "its certificate is not a client's"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not of this campaign"),
    ("BAD_SIGNATURE", "its certificate is not of this campaign"),
    *((token, "it does not speak TLS") for token in _NO_TLS),
    ("UNKNOWN_CA", "it does not accept this server's certificate"),
)


@contextmanager
def refusals(log: EventLog, every_s: float = EVERY_S) -> Iterator[None]:
    """Write an event for each kind of refusal, with their number, every `every_s` at most and at the end.

    Enter it before gRPC or flwr is imported: flwr would tell gRPC to keep quiet. Where stderr is no file (a terminal, a
    pipe), there are no events, and gRPC's own lines are where stderr leads.
    """
    os.environ["GRPC_VERBOSITY"] = ""  # gRPC's own default, which flwr takes for an answer
    descriptor = _own_stderr(log)
    if descriptor is None:
        yield
        return
    reader, over = _Reader(descriptor, log), threading.Event()
    thread = threading.Thread(target=reader.run, args=(over, every_s), name="refusals")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        os.close(descriptor)


def meaning(error: str) -> str:
    """Return what a failed handshake says of the peer, in words; `error` is BoringSSL's, as gRPC prints it."""
    for token, words in _MEANINGS:
        if token in error:
            return words
    found = _TOKEN.search(error)
    return f"the TLS handshake failed ({found[1] if found else 'no reason told'})"


class _Reader:
    """Reads what is added to a file, and counts the lines that tell of a refusal."""

    def __init__(self, descriptor: int, log: EventLog) -> None:
        self._descriptor, self._log = descriptor, log
        self._at = os.fstat(descriptor).st_size
        self._rest = b""

    def run(self, over: threading.Event, every_s: float) -> None:
        """Look until it is over, and once more then; a log that cannot be written is the campaign's business."""
        with suppress(OSError):
            while not over.wait(every_s):
                self._look()
            self._look()

    def _look(self) -> None:
        counts = Counter(
            meaning(found[1].decode(errors="replace")) for found in map(_FAILED.search, self._lines()) if found
        )
        for reason, count in counts.items():
            self._log.write(Refused(reason=reason, count=count))

    def _lines(self) -> Iterator[bytes]:
        self._at = min(self._at, os.fstat(self._descriptor).st_size)  # somebody may have emptied it
        while piece := os.pread(self._descriptor, _PIECE_BYTES, self._at):
            self._at += len(piece)
            *lines, rest = (self._rest + piece).split(b"\n")
            self._rest = rest[-_LONGEST_LINE:]
            yield from lines


def _own_stderr(log: EventLog) -> int | None:
    """Return a descriptor to read this process's stderr by, if that is the file of a campaign's process."""
    own = os.fstat(_STDERR)
    if not stat.S_ISREG(own.st_mode):
        return None
    with suppress(OSError):
        descriptor = os.open(log.path.parent / STDERR_FILE, os.O_RDONLY | os.O_CLOEXEC)
        if os.path.samestat(os.fstat(descriptor), own):
            return descriptor
        os.close(descriptor)
    return None
