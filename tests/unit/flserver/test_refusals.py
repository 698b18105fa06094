"""What gRPC's core says on stderr of peers that it refused becomes events; stderr itself is left alone."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flcommon.eventlog import EventLog, read_log
from flserver.refusals import _Reader, meaning, refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flcommon.events import Refused

LONG_S = 600.0
TAIL = b": Invalid certificate verification context"
NEW = b"I1125 16:23:04.954541   17857 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: error:"
OLD = b"E1125 16:26:08.930449217   19066 ssl_transport_security.cc:1654]       Handshake failed with fatal error "
NO_CERTIFICATE = NEW + b"100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE" + TAIL
EXPIRED = NEW + b"1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired"
OLD_NO_TLS = OLD + b"SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER."
OTHERS = (
    b"",
    b"I1125 16:26:01.241575   18808 ssl_transport_security.cc:3238] No match found for server name: [::1]",
    b"the app says: Handshake failed with error SSL_ERROR_SSL",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE} \xff".encode("latin-1"),
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "events.jsonl")
    yield log
    log.close()


def told(log: EventLog) -> list[Refused]:
    reading = read_log(log.path)
    assert reading.problems == []
    return [event for _, event in reading.events]


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Have this process's stderr in a file for a while, as a host has it."""
    before = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NO_CERTIFICATE, "it shows no certificate"),
        (EXPIRED, "its certificate has expired, by this host's clock"),
        (b"OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate is not yet valid",
         "its certificate is not valid yet, by this host's clock"),
        (b"OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unsupported certificate purpose",
         "its certificate is not a client's"),
        (b"OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
         "its certificate is not of this campaign"),
        (OLD_NO_TLS, "it does not speak TLS"),
        (b"OPENSSL_internal:NO_COMMON_SIGNATURE_ALGORITHMS",
         "the TLS handshake failed (NO_COMMON_SIGNATURE_ALGORITHMS)"),
        (b"SSL_ERROR_SYSCALL", "the TLS handshake failed (no reason told)"),
    ],
)  # fmt: skip
def test_a_reason_is_told_in_words(error, words):
    """One that is not known keeps BoringSSL's own word for it."""
    assert meaning(error.decode()) == words


def test_refusals_are_counted_by_reason(tmp_path, log):
    """One event per reason, however many there were; other lines are none of them, and stay where they are."""
    lines = [NO_CERTIFICATE, *OTHERS, EXPIRED, OLD_NO_TLS, NO_CERTIFICATE]
    (tmp_path / "stderr").write_bytes(b"before\n" + NO_CERTIFICATE + b"\n")
    with stderr_to(tmp_path / "stderr"), refusals(log, LONG_S):
        for line in lines:
            os.write(2, line + b"\n")
    assert {event.reason: event.count for event in told(log)} == {
        "it shows no certificate": 2,
        "its certificate has expired, by this host's clock": 1,
        "it does not speak TLS": 1,
    }
    assert (tmp_path / "stderr").read_bytes() == b"\n".join((b"before", NO_CERTIFICATE, *lines, b""))


def test_a_refusal_is_told_while_the_server_runs(tmp_path, log):
    """Not only at the end: within the time between two looks."""
    seen = threading.Event()
    write = log.write

    def watched(event, at=None):
        moment = write(event, at)
        seen.set()
        return moment

    log.write = watched
    with stderr_to(tmp_path / "stderr"), refusals(log, 0.01):
        os.write(2, EXPIRED + b"\n")
        assert seen.wait(20)
        assert [event.count for event in told(log)] == [1]
    assert [event.count for event in told(log)] == [1]


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("is_file", [True, False])
def test_nothing_is_left_behind(tmp_path, log, is_file):
    """No thread and no descriptor, where stderr is a file and where it is not, and also after an error."""
    before = set(threading.enumerate()), descriptors()
    with pytest.raises(ZeroDivisionError):
        _fail(tmp_path / "stderr" if is_file else None, log)
    assert (set(threading.enumerate()), descriptors()) == before


def _fail(stderr: Path | None, log: EventLog) -> None:
    if stderr is None:
        with refusals(log, LONG_S):
            raise ZeroDivisionError
    with stderr_to(stderr), refusals(log, LONG_S):
        raise ZeroDivisionError


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, log):
    """A full disk is the campaign's business, which writes to the same log: the watch just ends."""

    def full(_event, _at=None):
        raise OSError(28, "No space left on device")

    log.write = full
    with stderr_to(tmp_path / "stderr"), refusals(log, LONG_S):
        os.write(2, EXPIRED + b"\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.sampled_from([NO_CERTIFICATE, EXPIRED, OLD_NO_TLS, *OTHERS]) | st.binary(max_size=40), max_size=30
    ),
    cuts=st.lists(st.integers(0, 5000), max_size=8),
)
def test_it_does_not_matter_how_lines_arrive(tmp_path, lines, cuts):
    """In pieces of any length, with anything in between: each refusal is counted once."""
    content = b"".join(line + b"\n" for line in lines)
    path = tmp_path / "pieces"
    path.unlink(missing_ok=True)
    (tmp_path / "log").unlink(missing_ok=True)
    log = EventLog(tmp_path / "log")
    with path.open("wb", buffering=0) as file, path.open("rb") as own:
        reader = _Reader(own.fileno(), log)
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True):
            file.write(content[start:end])
            reader._look()
    log.close()
    assert sum(event.count for event in told(log)) == sum(
        line in (NO_CERTIFICATE, EXPIRED, OLD_NO_TLS) for line in lines
    )


def test_an_endless_line_costs_no_memory(tmp_path, log):
    """Whatever a library writes to stderr: what is held of a line is bounded, and the next line is read as ever."""
    with (tmp_path / "stderr").open("wb", buffering=0) as file, (tmp_path / "stderr").open("rb") as own:
        reader = _Reader(own.fileno(), log)
        file.write(b"x" * (1 << 20))
        reader._look()
        assert len(reader._rest) <= 1 << 12
        file.write(b"\n" + EXPIRED + b"\n")
        reader._look()
    assert [event.count for event in told(log)] == [1]


def test_a_file_that_was_emptied_is_read_on(tmp_path, log):
    """By a user who made room."""
    with (tmp_path / "stderr").open("ab", buffering=0) as file, (tmp_path / "stderr").open("rb") as own:
        reader = _Reader(own.fileno(), log)
        file.write(b"x\n" * 1000)
        reader._look()
        file.truncate(0)
        reader._look()
        file.write(EXPIRED + b"\n")
        reader._look()
    assert [event.count for event in told(log)] == [1]
