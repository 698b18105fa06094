"""The store of big files, by its own shell scripts on this machine, over a Remote that breaks when told to."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import CommandFailed, ConnectionLost, HostError
from deploy.store import TRIES, BigFile, big_file, push_files, understood

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MEGABYTE = 10**6


@dataclass
class Here:
    """This machine as a host; `cuts` are the numbers of bytes after which the next puts lose their connection."""

    host: str = "here"
    cuts: list[int] = field(default_factory=list)
    path: str = os.environ["PATH"]
    puts: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    reads: int = 0

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:
        self.reads += 1
        return self._run(argv, step, iter([stdin]))

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
        cut = self.cuts.pop(0) if self.cuts else None
        data = b"".join(stream) if cut is None else first(stream, cut)
        self.puts.append((tuple(argv[5:]), len(data)))
        told = self._run(argv, step, iter([data]))
        if cut is not None:
            raise ConnectionLost(self.host, step, "the connection was lost")
        return told

    def _run(self, argv: Sequence[str], step: str, stdin: Iterator[bytes]) -> str:
        done = subprocess.run(argv, input=b"".join(stdin), capture_output=True, env={"PATH": self.path}, check=False)
        if done.returncode:
            output = (done.stdout + done.stderr).decode()
            raise CommandFailed(self.host, step, argv, status=done.returncode, output=output)
        return done.stdout.decode()


def first(stream: Iterator[bytes], size: int) -> bytes:
    """Take no more than so many bytes, as a network does that goes away."""
    data = b""
    for piece in stream:
        data += piece
        if len(data) >= size:
            break
    return data[:size]


def silent(done: int, total: int) -> None:
    """Report to nobody."""


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "host" / "work dir"


@pytest.fixture
def wheel(tmp_path: Path) -> BigFile:
    path = tmp_path / "a_wheel-1.0+cpu-py3-none-any.whl"
    path.write_bytes(bytes(range(256)) * 4096)
    return big_file(path)


def files_below(work: Path) -> set[str]:
    """Return what the store holds."""
    return {str(path.relative_to(work / "store")) for path in (work / "store").rglob("*") if path.is_file()}


def broken_push(here: Here, work: Path, wheel: BigFile, size: int) -> Path:
    """Leave the first bytes of a file on the host, and return the part."""
    here.cuts = [size, 0, 0, 0, 0]
    with pytest.raises(ConnectionLost):
        push_files(here, str(work), [wheel], silent)
    here.cuts.clear()
    here.puts.clear()
    (part,) = (work / "store" / wheel.sha256).iterdir()
    assert part.stat().st_size == size
    return part


def test_a_file_arrives_under_its_name_and_digest(here, work, wheel):
    """It cannot be changed by accident, and nothing else is left."""
    assert push_files(here, str(work), [wheel], silent) == wheel.size
    assert files_below(work) == {f"{wheel.sha256}/{wheel.name}"}
    place = Path(wheel.place(str(work)))
    assert place.read_bytes() == wheel.path.read_bytes()
    assert place.stat().st_mode & 0o777 == 0o444


def test_a_second_push_is_one_look(here, work, wheel):
    """What is there is not sent again."""
    push_files(here, str(work), [wheel], silent)
    here.puts.clear()
    here.reads = 0
    assert push_files(here, str(work), [wheel], silent) == 0
    assert (here.reads, here.puts) == (1, [])


def test_an_empty_file_is_a_file(here, work, tmp_path):
    """Size 0 is no reason to send nothing."""
    (tmp_path / "empty").touch()
    empty = big_file(tmp_path / "empty")
    push_files(here, str(work), [empty], silent)
    assert Path(empty.place(str(work))).read_bytes() == b""


def test_only_what_is_missing_is_sent(here, work, wheel, tmp_path):
    """Of several files, those that are there cost nothing."""
    push_files(here, str(work), [wheel], silent)
    other = tmp_path / "other.whl"
    other.write_bytes(b"other")
    assert push_files(here, str(work), [wheel, big_file(other)], silent) == 5


def test_a_cut_push_goes_on_where_it_broke(here, work, wheel):
    """Every byte travels once, however often the connection goes: each try that brings something counts anew."""
    here.cuts = [100_000, 200_000, 50_001, 1, 99_999, 300_000]
    sent = push_files(here, str(work), [wheel], silent)
    assert [size for _, size in here.puts] == [*(100_000, 200_000, 50_001, 1, 99_999, 300_000), wheel.size - 750_001]
    assert files_below(work) == {f"{wheel.sha256}/{wheel.name}"}
    # A piece that was cut counts as sent, for the controller cannot know.
    assert sent >= wheel.size - 6 * 32 * 1024


def test_another_command_goes_on_too(here, work, wheel):
    """A part survives the controller that made it."""
    broken_push(here, work, wheel, 700_000)
    push_files(here, str(work), [wheel], silent)
    assert [size for _, size in here.puts] == [wheel.size - 700_000]
    assert files_below(work) == {f"{wheel.sha256}/{wheel.name}"}


def test_tries_that_bring_nothing_are_bounded(here, work, wheel):
    """A connection that always breaks ends the push with the connection's own error."""
    here.cuts = [0] * 100
    with pytest.raises(ConnectionLost):
        push_files(here, str(work), [wheel], silent)
    assert len(here.puts) == TRIES


def test_a_part_of_a_living_process_is_copied(here, work, wheel):
    """The far end of a connection that hangs may still write: nobody writes into its file, and its bytes are used."""
    part = broken_push(here, work, wheel, 700_000)
    living = part.rename(part.with_name(f"{wheel.name}.part.{os.uname().nodename}.{os.getpid()}"))
    with living.open("ab") as still_open:
        here.cuts = [10, 0, 0, 0]
        with pytest.raises(ConnectionLost):
            push_files(here, str(work), [wheel], silent)
        assert living.stat().st_size == 700_000
        here.cuts.clear()
        push_files(here, str(work), [wheel], silent)
        still_open.write(b"late")
    assert [size for _, size in here.puts][-1] == wheel.size - 700_010
    assert files_below(work) == {f"{wheel.sha256}/{wheel.name}"}


def test_a_part_of_another_machine_is_copied(here, work, wheel):
    """Hosts may share a home directory: a process id of another one says nothing here."""
    part = broken_push(here, work, wheel, 700_000)
    part.rename(part.with_name(f"{wheel.name}.part.elsewhere.example.1"))
    push_files(here, str(work), [wheel], silent)
    assert [size for _, size in here.puts] == [wheel.size - 700_000]


def test_a_corrupt_part_is_found(here, work, wheel):
    """Its bytes are not trusted: the file is sent again from its beginning."""
    part = broken_push(here, work, wheel, 700_000)
    part.write_bytes(b"\xff" * 700_000)
    push_files(here, str(work), [wheel], silent)
    assert [size for _, size in here.puts] == [wheel.size - 700_000, wheel.size]
    assert Path(wheel.place(str(work))).read_bytes() == wheel.path.read_bytes()


def test_a_part_that_is_too_long_is_not_used(here, work, wheel):
    """A part cannot be longer than the file."""
    part = broken_push(here, work, wheel, 700_000)
    with part.open("ab") as file:
        file.truncate(wheel.size + 1)
    push_files(here, str(work), [wheel], silent)
    assert files_below(work) == {f"{wheel.sha256}/{wheel.name}"}


def test_a_damaged_copy_on_the_controller_is_named(here, work, wheel):
    """No push can mend it: the error says which file to delete."""
    wheel.path.write_bytes(b"\0" * wheel.size)
    with pytest.raises(HostError, match=re.escape(f"here: push: {wheel.path} on this machine is damaged: delete")):
        push_files(here, str(work), [wheel], silent)
    assert files_below(work) == set()


def test_a_lost_copy_on_the_controller_is_named(here, work, wheel):
    """The error is about this machine, not about the host."""
    wheel.path.unlink()
    with pytest.raises(HostError, match="on this machine cannot be read: No such file"):
        push_files(here, str(work), [wheel], silent)


def test_two_controllers_at_once(work, wheel):
    """Each receives into a file of its own; the one that is later finds the file there."""
    one, two = Here(), Here()
    told = []

    class Between(Here):
        def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
            told.append(push_files(two, str(work), [wheel], silent))
            return super().put(stream, argv, step=step)

    assert push_files(Between(), str(work), [wheel], silent) == wheel.size
    assert told == [wheel.size]
    assert push_files(one, str(work), [wheel], silent) == 0
    assert files_below(work) == {f"{wheel.sha256}/{wheel.name}"}


def test_progress_counts_what_is_there(here, work, wheel, tmp_path):
    """It begins where a broken push ended, never goes back, and ends at the total."""
    other = tmp_path / "other.whl"
    other.write_bytes(b"x" * 40_000)
    files = [wheel, big_file(other)]
    broken_push(here, work, wheel, 700_000)
    seen: list[tuple[int, int]] = []
    push_files(here, str(work), files, lambda *counts: seen.append(counts))
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert done[0] > 700_000
    assert seen[-1] == (wheel.size + 40_000,) * 2


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_a_host_with_other_tools(here, work, wheel, tmp_path, shell):
    """On macOS, sh is bash, and there is shasum instead of sha256sum."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("wc", "tr", "cut", "df", "awk", "dirname", "uname", "mkdir", "cat", "chmod", "mv", "rm", "head"):
        (tools / tool).symlink_to(shutil.which(tool))
    (tools / "sh").symlink_to(path)
    (tools / "shasum").write_text(f'#!/bin/sh\n[ "$*" = "-a 256" ] && exec {shutil.which("sha256sum")}\n')
    (tools / "shasum").chmod(0o755)
    here.path = str(tools)
    broken_push(here, work, wheel, 700_000)
    push_files(here, str(work), [wheel], silent)
    assert [size for _, size in here.puts] == [wheel.size - 700_000]
    assert files_below(work) == {f"{wheel.sha256}/{wheel.name}"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("size=512k", r"needs 2 MB more, and 1 MB are free: make room, or choose another workdir"),
        ("size=64m,nr_inodes=3", r"cannot be written \(.*No space left on device\): make room, or choose"),
        ("ro", r"cannot be written \(.*Read-only file system\): make room, or choose another workdir"),
    ],
)
def test_a_place_that_cannot_hold_it(here, wheel, tmp_path, options, message):
    """One sentence, and nothing that looks like the file."""
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount], check=True)
    try:
        with pytest.raises(HostError, match=f"here: push: .*{message}") as failure:
            push_files(here, f"{mount}/work", [wheel], silent)
        assert len(str(failure.value).splitlines()) == 1
        assert not [path for path in mount.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up_is_given_its_room_back(here, wheel, tmp_path, monkeypatch):
    """Others may fill it during the push: the part goes, so that the host stays usable."""
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", mount], check=True)
    monkeypatch.setattr("deploy.store._Push._refuse_full", lambda *_: None)
    try:
        with pytest.raises(HostError, match="No space left on device"):
            push_files(here, f"{mount}/work", [wheel], silent)
        assert not [path for path in mount.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", mount], check=True)


SHA = st.sampled_from([hashlib.sha256(bytes([i])).hexdigest() for i in range(3)])
WORDS = st.one_of(
    SHA, st.sampled_from(["free", "complete", "part", "-1", "5", "9" * 30, "²", "a.1"]), st.text(max_size=4)
)


@given(lines=st.lists(st.lists(WORDS, max_size=5).map(" ".join)))
def test_no_answer_of_a_host_is_trusted(lines):
    """Whatever a host says: what it does not clearly call complete is missing, and no part is longer than its file."""
    files = [BigFile(Path(str(i)), hashlib.sha256(bytes([i])).hexdigest(), 7) for i in range(3)]
    found = understood("\n".join(lines), files)
    called = {
        words[1]
        for line in "\n".join(lines).splitlines()
        if (words := line.split())[:1] == ["complete"] and words[2:] == [] and words[1:]
    }
    assert {file.sha256 for file in files} - {file.sha256 for file in found.missing} == called & {
        f.sha256 for f in files
    }
    assert all(part.size <= 7 for part in found.parts.values())
    assert 0 <= found.there <= 21
