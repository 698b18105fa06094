"""What the controller asks a host to do with its processes: `python -m flcommon.commands VERB DIR …`.

    start DIR MODULE              take an `Order` from stdin, run `python -m MODULE DIR/job.json`, detached
    run DIR MODULE NAME...        start, then watch, in one go
    again DIR MODULE SEQ NAME...  start it again where it died, then watch: from there on, or after SEQ if it runs
    watch DIR SEQ NAME...         print its events of these names after number SEQ as they come, until it has ended
    stop DIR                      end its process group: SIGTERM, then SIGKILL
    converse DIR                  answer each line of stdin by when it came and went, and renew the controller's lease
    paused DIR NUMBER             print `yes` if the server holds the experiment for that pause
    resume DIR NUMBER             let that pause end
    status BELOW                  a `Status` per line, the latest processes first
    tail DIR FILE COUNT           the last lines of a file
    follow DIR FILE COUNT         the same, then more until the process has ended
    request KEYS                  print the host's certificate request, after making its private key if there is none

DIR is `<workdir>/campaigns/<campaign>/<host>`, BELOW the directory of all campaigns, KEYS is `<workdir>/keys`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flcommon.conversing import converse
from flcommon.following import print_lines, watch
from flcommon.process import Order, again, start, stop
from flcommon.quiet import is_paused, resume
from flcommon.status import statuses, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def main(arguments: Sequence[str]) -> int:
    """Do one of the verbs and return the exit status; what goes wrong with a file is one line on stderr."""
    verb, directory, *rest = arguments
    try:
        _do(verb, Path(directory), rest)
    except OSError as error:
        print(f"{error.filename or directory}: {error.strerror}", file=sys.stderr)  # noqa: T201 - for the controller
        return 1
    return 0


def _do(verb: str, place: Path, rest: Sequence[str]) -> None:
    if verb not in _VERBS:
        raise SystemExit(f"unknown verb {verb}")
    print_lines(_VERBS[verb](place, rest))


def _start(place: Path, rest: Sequence[str]) -> Iterable[bytes]:
    start(place, rest[0], msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    return ()


def _run(place: Path, rest: Sequence[str]) -> Iterable[bytes]:
    _start(place, rest)
    return watch(place, rest[1:])


def _again(place: Path, rest: Sequence[str]) -> Iterable[bytes]:
    before = again(place, rest[0])
    return watch(place, rest[2:], int(rest[1]) if before is None else before)


def _stop(place: Path, _rest: Sequence[str]) -> Iterable[bytes]:
    stop(place)
    return ()


def _resume(place: Path, rest: Sequence[str]) -> Iterable[bytes]:
    resume(place, int(rest[0]))
    return ()


def _request(place: Path, _rest: Sequence[str]) -> Iterable[bytes]:
    from flcommon.credentials import certificate_request  # noqa: PLC0415 - `cryptography` costs 0.1 s

    return [certificate_request(place).encode()]


_VERBS: dict[str, Callable[[Path, Sequence[str]], Iterable[bytes]]] = {
    "start": _start,
    "run": _run,
    "again": _again,
    "watch": lambda place, rest: watch(place, rest[1:], int(rest[0])),
    "stop": _stop,
    "converse": lambda place, _rest: converse(place),
    "paused": lambda place, rest: [b"yes\n"] if is_paused(place, int(rest[0])) else [],
    "resume": _resume,
    "status": lambda place, _rest: (msgspec.json.encode(one) + b"\n" for one in statuses(place, time.time())),
    "tail": lambda place, rest: tail(place, rest[0], int(rest[1]), follow=False),
    "follow": lambda place, rest: tail(place, rest[0], int(rest[1]), follow=True),
    "request": _request,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
