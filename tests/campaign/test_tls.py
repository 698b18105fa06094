"""Keys stay where they were made, and nobody without one gets in: on a whole campaign with real hosts."""

from __future__ import annotations

import json
import socket
import stat
from contextlib import suppress
from pathlib import Path

from flcommon import events

PLAIN = "playbook: plain\napp: flclient.apps.payload\nrounds: 1\nprobe: off\ntransport: {tls: off}\n"


def host_keys(pid_of) -> dict[str, Path]:
    """Return the private keys that the processes of the campaign that runs now use, by host."""
    return {host: Path(_tls(pid_of, host)["key"]) for host in ("server", "client-1", "client-2")}


def _tls(pid_of, host):
    line = Path(f"/proc/{pid_of(host)}/cmdline").read_bytes().split(b"\0")
    (job,) = [word for word in line if word.endswith(b"/job.json")]
    return json.loads(Path(job.decode()).read_text())["tls"]


def everything(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_no_private_key_leaves_its_host(bench, recorder, pid_of):
    """Not in a job, a log, a manifest, or anywhere in the run directory; on the host only its owner can read it."""
    secrets = []

    def read(_):
        for key in host_keys(pid_of).values():
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
            secrets.append(key.read_bytes())

    view = recorder(events.RoundStarted, read)
    bench.up(view)
    assert len(set(secrets)) == 3, "each host has a key of its own"
    kept = everything(view.directory)
    assert b"BEGIN CERTIFICATE" in kept, "certificates are public, and are in the jobs"
    assert b"PRIVATE KEY" not in kept
    for secret in secrets:
        body = secret.splitlines()[1:-1]
        assert not any(line in kept for line in body)
    assert bench.manifest(view).tls


def test_a_campaign_without_tls_says_so(bench, recorder):
    """In a note and in the manifest; it runs all the same."""
    view = recorder()
    bench.up(view, PLAIN)
    assert (bench.manifest(view).status, bench.manifest(view).tls) == ("complete", False)
    assert [note for note in view.notes if "transport.tls is off" in note] == view.notes


def test_a_peer_without_a_certificate_is_an_event(bench, recorder):
    """It gets nothing, the campaign goes on, and the server's log says what it was."""

    def knock(view):
        (listening,) = [event for _, event in view.events if isinstance(event, events.Listening)]
        host, _, port = listening.address.rpartition(":")
        with socket.create_connection((host, int(port)), 20) as stranger, suppress(ConnectionResetError):
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
            assert stranger.recv(4096) == b""

    view = recorder(events.RoundStarted, knock)
    bench.up(view)
    assert bench.manifest(view).status == "complete"
    refusals = [event for event in bench.log(view, "server") if isinstance(event, events.Refused)]
    assert [(event.reason, event.count) for event in refusals] == [("it does not speak TLS", 1)]
