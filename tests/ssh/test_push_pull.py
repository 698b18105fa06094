"""Push and pull over OpenSSH's own server: what breaks in the middle goes on, and what a host sends does no harm."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.bundle import code_directory, make_bundle, push
from deploy.errors import HostError
from deploy.facts import look
from deploy.inventory import Host, Python, Ssh
from deploy.pull import PulledFile, Wanted, pull
from deploy.remote import ssh

MB = 1 << 20
LOGS = Wanted(("events",), ("stdout",))


@dataclass
class Relay:
    """Passes connections on to a port, and cuts each after so many bytes in both directions together.

    The first connection by the first of `cuts`, and so on; those after the last are never cut. `passed` counts.
    """

    target: int
    cuts: list[int]
    passed: list[int] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self):
        """Give the port to connect to."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._begin(self._accept, listener)
            try:
                yield listener.getsockname()[1]
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                for end in self._sockets:
                    _hang_up(end)
                for thread in self._threads:
                    thread.join(10)

    def _begin(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                ends = (listener.accept()[0], socket.create_connection(("127.0.0.1", self.target)))
                self._sockets += ends
                self.passed.append(0)
                number, left = len(self.passed) - 1, [self.cuts.pop(0) if self.cuts else sys.maxsize]
                for source, sink in (ends, ends[::-1]):
                    self._begin(self._pass_on, (source, sink), number, left)

    def _pass_on(self, ends, number, left):
        source, sink = ends
        with contextlib.suppress(OSError):
            while left[0] > 0 and (data := source.recv(16_384)):
                left[0] -= len(data)
                self.passed[number] += len(data)
                sink.sendall(data)
        for end in ends:
            _hang_up(end)


def _hang_up(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@dataclass(frozen=True)
class Machine:
    """A host that is an OpenSSH server on loopback, with a work directory of its own."""

    host: Host

    @property
    def workdir(self) -> Path:
        return Path(self.host.workdir)

    @property
    def logs(self) -> Path:
        folder = self.workdir / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture
def machine(openssh, tmp_path):
    """Give a function that makes a host: an sshd with these options, or what listens on a port."""

    def make(port=0, **options):
        if port:
            openssh._know(port)
        user = Ssh(
            user=getpass.getuser(),
            port=port or openssh.start(**options),
            identity_file=str(openssh.identity_file),
            known_hosts=str(openssh.known_hosts),
        )
        workdir = tmp_path / "home" / "work dir"
        workdir.mkdir(parents=True, exist_ok=True)
        python = Python(path=sys.executable)
        host = Host(name="pi-a", role="client", host="127.0.0.1", ssh=user, python=python, workdir=str(workdir))
        return Machine(host)

    return make


@pytest.fixture
def tree(tmp_path):
    """Give a directory of 2 MB that do not shrink."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(20):
        (folder / f"file {number}").write_bytes(os.urandom(100_000))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_changed_file_goes_alone(machine, tree):
    """Over a connection, counted in bytes: all, then one of twenty, then nothing."""
    relay = Relay(machine().host.ssh.port, [])
    with relay.running() as port:
        host = machine(port).host
        for most in (2_200_000, 150_000, 40_000):
            with ssh.connect(host) as remote:
                bundle = make_bundle({"tree": tree})
                facts = look(host, remote)
                assert push(remote, facts, bundle) == (most > 40_000)
            assert contents(Path(code_directory(facts, bundle)) / "tree") == contents(tree)
            assert relay.passed[-1] < most
            if most > 150_000:
                (tree / "file 7").write_bytes(os.urandom(100_000))
    assert len(relay.passed) == 3


def test_a_push_that_is_cut_is_sent_again(machine, tree):
    """What came of it leaves nothing that looks like code; the next one is whole."""
    relay = Relay(machine().host.ssh.port, [500_000, 1_000_000])
    with relay.running() as port:
        host = machine(port).host
        with ssh.connect(host) as remote:
            with ssh.connect(machine().host) as other:
                facts = look(host, other)
            bundle = make_bundle({"tree": tree})
            assert push(remote, facts, bundle)
    assert contents(Path(code_directory(facts, bundle)) / "tree") == contents(tree)
    assert len(relay.passed) == 3
    assert [path.name for path in (machine().workdir / "code").iterdir() if "." not in path.name] == [bundle.digest]


def test_a_pull_that_is_cut_goes_on(machine, tmp_path):
    """Twice: the bytes that came before are not sent again, and the whole is what the host has."""
    relay = Relay(machine().host.ssh.port, [12 * MB, 10 * MB])
    with relay.running() as port:
        place = machine(port)
        content = os.urandom(32 * MB)
        (place.logs / "events").write_bytes(content)
        with ssh.connect(place.host) as remote:
            told = pull(remote, sys.executable, str(place.logs), tmp_path / "raw", LOGS)
    assert told == {"events": PulledFile(32 * MB, 0)}
    assert contents(tmp_path / "raw") == {"events": content}
    assert len(relay.passed) == 3
    assert sum(relay.passed) < 40 * MB  # what is in flight at a cut is lost


def test_a_log_that_grows_is_pulled_meanwhile(machine, tmp_path):
    """Every pull brings a beginning of what the log will be, no shorter than the one before; the last brings all."""
    place, done = machine(), threading.Event()
    line = b'{"v":1,"seq":%d}\n'

    def write():
        with (place.logs / "events").open("ab", buffering=0) as log:
            number = 0
            while not done.is_set():
                log.write(line % number)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    sizes = [0]
    try:
        with ssh.connect(place.host) as remote:
            for _ in range(5):
                wanted = Wanted(LOGS.whole, final=False)
                pull(remote, sys.executable, str(place.logs), tmp_path / "raw", wanted)
                sizes.append((tmp_path / "raw" / "events").stat().st_size)
            done.set()
            writer.join()
            pull(remote, sys.executable, str(place.logs), tmp_path / "raw", LOGS)
    finally:
        done.set()
        writer.join()
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[1]
    assert contents(tmp_path / "raw") == contents(place.logs)


def test_a_gigabyte_of_output_costs_sixteen_megabytes(machine, tmp_path):
    """A process wrote without end: its last words come, and what was left out is told."""
    place = machine()
    with (place.logs / "stdout").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"last words")
    with ssh.connect(place.host) as remote:
        told = pull(remote, sys.executable, str(place.logs), tmp_path / "raw", LOGS)
    size = (1 << 30) + len("last words")
    assert told == {"stdout": PulledFile(size, size - 16 * MB)}
    (content,) = contents(tmp_path / "raw").values()
    assert len(content) == 16 * MB
    assert content.endswith(b"\0last words")


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (r"printf '1\n4 ../../x\nevil'", "it sends what it was not asked for: b'4 ../../x"),
        (r"printf '1\n4 /x\nevil'", "it sends what it was not asked for"),
        (r"printf '1\n4 events\nevil00000000000000000000000000000000'", "events arrived damaged, and is not kept"),
        (r"printf '1\n4 events\nev'", "what it sends ends too early"),
        (r"printf '1\n99999999999999999 events\n'; cat /dev/zero", "it has more to send than there is room"),
        (r"printf '0\n'; cat /dev/zero", "it sends more than it announced"),
        (r"cat /dev/zero", "an answer that cannot be understood"),
        (r"printf '1\n4000000000 stdout\n'; cat /dev/zero", "it sends more than it announced"),
        (r"echo no >&2; exit 1", "exit status 1 from: "),
    ],
)
def test_a_hostile_sender_does_no_harm(machine, tmp_path, says, message):
    """Its answer is one sentence; nothing of it is written; and what has no end is not waited for."""
    place, python = machine(), tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{says}\n")
    python.chmod(0o755)
    with ssh.connect(place.host) as remote, pytest.raises(HostError) as caught:
        pull(remote, str(python), str(place.logs), tmp_path / "run" / "raw", LOGS)
    assert str(caught.value).startswith(f"pi-a: pull: {message}")
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "x").exists()


def test_links_on_the_host_are_not_followed(machine, tmp_path):
    """Nor is a pipe waited for: neither is a log that a process of ours wrote."""
    place = machine()
    (tmp_path / "secret").write_text("secret")
    (place.logs / "events").symlink_to(tmp_path / "secret")
    os.mkfifo(place.logs / "stdout")
    with ssh.connect(place.host) as remote:
        assert pull(remote, sys.executable, str(place.logs), tmp_path / "raw", LOGS) == {}
    assert contents(tmp_path / "raw") == {}


CROWDED = """#!/bin/sh
mount -t tmpfs -o {options} fieldlab-test "{workdir}" || exit 99
sh -c "$SSH_ORIGINAL_COMMAND"
status=$?
ls -A "{workdir}" "{workdir}/code" >"{listing}" 2>/dev/null
exit $status
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount in a namespace of its own")
@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ("size=600k", "No space left on device; make room there, or choose another workdir in the inventory"),
        ("ro", "Read-only file system; choose another workdir in the inventory"),
    ],
)
def test_a_home_without_room_is_told(machine, tree, tmp_path, options, advice):
    """One sentence that names the place and what to do; no draft stays."""
    script, listing = tmp_path / "crowded", tmp_path / "listing"
    with ssh.connect(machine().host) as remote:
        facts = look(machine().host, remote)
    script.write_text(CROWDED.format(options=options, workdir=machine().workdir, listing=listing))
    script.chmod(0o755)
    place = machine(ForceCommand=f"unshare --mount {script}")
    with ssh.connect(place.host) as remote, pytest.raises(HostError) as caught:
        push(remote, facts, make_bundle({"tree": tree}))
    error = str(caught.value)
    assert error.startswith(f"pi-a: push: {place.workdir}/code")
    assert error.endswith(f": {advice}")
    assert "\n" not in error
    assert ".draft" not in listing.read_text()
