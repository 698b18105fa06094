"""A process of its own that parses pieces: batches on stdin, results on stdout, both as msgpack.

Not made by `multiprocessing`, which leaves a process behind that keeps count of its semaphores.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import msgspec

from deploy.analysis.reading.parsing import Parsed, Piece, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LENGTH = struct.Struct("<Q")
_batches = msgspec.msgpack.Decoder(list[list[Piece]])
_parsed = msgspec.msgpack.Decoder(Parsed)


@contextmanager
def working(batches: Sequence[Sequence[Piece]]) -> Iterator[Iterator[Parsed]]:
    """Start a process that parses batches, and give what each held; it is ended on leaving.

    Raises EOFError or BrokenPipeError if it dies. What it would say on stderr then, or on Ctrl-C, is for no user.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "POLARS_MAX_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None  # noqa: S101 - it was started with pipes
        assert process.stdout is not None  # noqa: S101 - the same
        try:
            process.stdin.write(msgspec.msgpack.encode(batches))
            process.stdin.close()
            yield (_parsed.decode(_read(process.stdout)) for _ in batches)
        finally:
            process.kill()


def _read(stream: IO[bytes]) -> bytes:
    """Read one result."""
    head = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    found = stream.read(length)
    if not length or len(found) < length:
        raise EOFError
    return found


def main() -> None:
    """Parse what stdin asks for."""
    for batch in _batches.decode(sys.stdin.buffer.read()):
        result = msgspec.msgpack.encode(parse(batch))
        sys.stdout.buffer.write(_LENGTH.pack(len(result)))
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
