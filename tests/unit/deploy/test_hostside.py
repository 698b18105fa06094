"""The scripts that run on a host, run for real on this machine, with a home directory of their own."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest

from deploy import hostside
from deploy.bundle import Bundle, code_directory, make_bundle, push
from deploy.errors import CommandFailed, HostError
from deploy.facts import look
from deploy.inventory import Host, Python, Ssh


def host(python=sys.executable, workdir="~/.fieldlab"):
    return Host(name="here", role="client", host="x", ssh=Ssh(), python=Python(path=python), workdir=workdir)


def tree(folder):
    """Return everything below a directory: names, contents, dates, permissions."""
    return {
        path: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


# --- look ------------------------------------------------------------------------------------------------------------


def test_a_look_finds_this_machine(here):
    """Facts that can be checked from here are right, and `~` is the host's home."""
    found = look(host(), here)
    assert (found.python, found.home, found.workdir) == (sys.executable, str(here.home), f"{here.home}/.fieldlab")
    assert found.python_version == ".".join(map(str, sys.version_info[:3]))
    assert (found.python_bits, found.writable, found.code) == (64, True, ())
    assert found.packages["msgspec"] is not None
    assert set(found.packages) == {"flwr", "grpc", "msgspec", "numpy", "torch", "torchvision"}


def test_a_look_changes_nothing(here):
    """Not even the work directory is made, and no cache is written."""
    (here.home / "some.py").write_text("1")
    before = tree(here.home)
    look(host(), here)
    assert tree(here.home) == before


def test_files_in_the_home_directory_are_not_modules(here):
    """A student's json.py or platform.py in the home directory is not run."""
    for name in ("json", "platform", "torch", "socket"):
        (here.home / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    assert look(host(), here).home == str(here.home)


def test_complete_bundles_are_listed(here):
    """What a killed push has left beside them, or anybody put there, is none."""
    for name in ("fedcba9876543210", "0123456789abcdef", "0123456789abcdef.4711", ".DS_Store"):
        (here.home / ".fieldlab" / "code" / name).mkdir(parents=True)
    assert look(host(), here).code == ("0123456789abcdef", "fedcba9876543210")


def test_a_virtual_environment_is_found_by_its_directory(here):
    """`python.path` may be a directory, also below `~`."""
    program = here.home / "venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    for path in ("~/venv", str(here.home / "venv"), "~/venv/bin/python"):
        assert look(host(path), here).user == "pi"


def test_a_python_that_is_not_there_is_named(here):
    """The message says which path, and where it comes from."""
    with pytest.raises(
        HostError, match=r"^here: look: there is no Python at /no/venv \(python.path in the inventory\)$"
    ):
        look(host("/no/venv"), here)


def test_the_script_is_understood_by_old_pythons():
    """A Python that is too old must be able to say so: no syntax after 3.7."""
    ast.parse(hostside.source("look"), feature_version=(3, 7))


# --- receive ---------------------------------------------------------------------------------------------------------


def packed(*entries):
    """Return a bundle of made-up entries: (name, content) or a TarInfo."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return sealed(raw.getvalue())


def sealed(archive):
    return Bundle("0123456789abcdef", archive, hashlib.sha256(archive).hexdigest(), 1)


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def left_behind(here):
    """Return the files and links on the host."""
    return [path for path in here.home.parent.rglob("*") if not path.is_dir() or path.is_symlink()]


def test_a_bundle_arrives_as_it_was_packed(here, own_facts):
    """All files byte for byte, nothing else, and the code runs from there."""
    bundle = make_bundle()
    assert push(here, own_facts, bundle)
    place = Path(code_directory(own_facts, bundle))
    with tarfile.open(fileobj=io.BytesIO(bundle.archive)) as archive:
        wanted = {place / entry.name: archive.extractfile(entry).read() for entry in archive}
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == wanted
    assert list(place.parent.iterdir()) == [place]
    argv = ["env", f"PYTHONPATH={place}", own_facts.python, "-P", "-m", "flcommon.commands", "status", "/nowhere"]
    assert here.read(argv, step="look") == ""


def test_the_next_look_finds_it(here, own_facts):
    """What was pushed once is not pushed again."""
    bundle = make_bundle()
    push(here, own_facts, bundle)
    found = look(host(), here)
    assert found.code == (bundle.digest,)
    assert not push(here, found, bundle)


def test_two_controllers_may_push_the_same(here, own_facts):
    """The one that comes second changes nothing and is content."""
    bundle = packed(("p/a.py", b"1"))
    push(here, own_facts, bundle)
    before = tree(here.home)
    assert push(here, own_facts, bundle)
    after = tree(here.home)
    assert {path: (found[0], found[2]) for path, found in after.items()} == {
        path: (found[0], found[2]) for path, found in before.items()
    }


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:], lambda _: b""])
def test_a_damaged_stream_is_refused(here, own_facts, damage):
    """Nothing that looks like code is left, nor anything else."""
    bundle = packed(("p/a.py", b"1" * 5000))
    damaged = Bundle(bundle.digest, damage(bundle.archive), bundle.archive_sha256, 1)
    with pytest.raises(CommandFailed, match="the bundle arrived damaged: its SHA-256 differs"):
        push(here, own_facts, damaged)
    assert list(here.home.rglob("*")) == []


def test_a_stream_that_is_no_archive_is_refused(here, own_facts):
    """Its sum is right and it makes no sense: one line says so, and no draft is left."""
    whole = packed(("p/a.py", bytes(100_000))).archive
    packer = zlib.compressobj(wbits=31)
    half = packer.compress(gzip.decompress(whole)[:50_000]) + packer.flush(zlib.Z_FULL_FLUSH)
    for archive in (b"", b"not gzip", whole[:-30], half, half + b"\x07 is no type of a block"):
        with pytest.raises(CommandFailed) as caught:
            push(here, own_facts, sealed(archive))
        assert "Traceback" not in caught.value.output
        assert list((here.home / ".fieldlab" / "code").iterdir()) == []


@pytest.mark.parametrize(
    "entry",
    [
        ("../evil", b"x"),
        ("p/../../../evil", b"x"),
        ("..", b"x"),
        (".", b"x"),
        special("p/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("p/link", tarfile.SYMTYPE, "a.py"),
        special("p/link", tarfile.LNKTYPE, "p/a.py"),
        special("p/device", tarfile.CHRTYPE),
        special("p/pipe", tarfile.FIFOTYPE),
        special("p", tarfile.DIRTYPE),
    ],
    ids=lambda entry: entry[0] if isinstance(entry, tuple) else f"{entry.name} type {entry.type!r}",
)
def test_only_plain_files_below_the_directory_are_taken(here, own_facts, entry):
    """Names that lead out, links and devices are refused, with all of the bundle."""
    with pytest.raises(CommandFailed, match="something else than plain files"):
        push(here, own_facts, packed(("p/a.py", b"1"), entry))
    assert left_behind(here) == []
    assert list((here.home / ".fieldlab" / "code").iterdir()) == []


def test_absolute_names_are_refused(here, own_facts, tmp_path):
    """A bundle writes nowhere but in its own directory."""
    with pytest.raises(CommandFailed, match="something else than plain files"):
        push(here, own_facts, packed((str(tmp_path / "evil"), b"x")))
    assert left_behind(here) == []


def test_a_directory_that_cannot_be_made_is_named(here, own_facts):
    """A file stands where the work directory should be; the message says so, without the script that was run."""
    (here.home / ".fieldlab").write_text("in the way")
    with pytest.raises(CommandFailed, match=r"/home/\.fieldlab.*: (Not a directory|File exists)") as caught:
        push(here, own_facts, packed(("a", b"1")))
    assert str(caught.value).startswith(f"here: push: exit status 1 from: {sys.executable} -c (script) /")


def test_receiving_needs_no_filters_of_tarfile(own_facts):
    """Python 3.11.2, of Debian 12 and Raspberry Pi OS 12, has none: `extractall` knows no `filter`."""
    bundle = packed(("p/a.py", b"1"))
    old = "import tarfile\ndel tarfile.TarFile.extractall, tarfile.TarFile.extract, tarfile.data_filter\n"
    place = Path(code_directory(own_facts, bundle))
    argv = [sys.executable, "-c", old + hostside.source("receive"), str(place), bundle.archive_sha256]
    subprocess.run(argv, input=bundle.archive, check=True)
    assert (place / "p" / "a.py").read_bytes() == b"1"


# --- send ------------------------------------------------------------------------------------------------------------


ANNOUNCED = (8 << 20) + 5
"""Bytes of a log: more than a pipe holds, and no whole number of pieces."""


def sending(directory, *names):
    return [sys.executable, "-c", hostside.source("send"), str(directory), *names]


def test_files_are_sent_with_sizes_and_sums(tmp_path):
    """One line of JSON, then the bytes in the same order; what is missing or no file is left out."""
    contents = {"a": b"one\n", "b": b"", "c": bytes(range(256)) * 9000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "directory").mkdir()
    told = subprocess.run(sending(tmp_path, "c", "missing", "directory", "a", "b"), capture_output=True, check=True)
    line, _, rest = told.stdout.partition(b"\n")
    assert json.loads(line) == {
        name: [len(contents[name]), hashlib.sha256(contents[name]).hexdigest()] for name in ("c", "a", "b")
    }
    assert rest == contents["c"] + contents["a"] + contents["b"]


def test_nothing_to_send_is_an_empty_table(tmp_path):
    """A process that never started has left nothing, and that is no error."""
    told = subprocess.run(sending(tmp_path / "gone", "a"), capture_output=True, check=True)
    assert told.stdout == b"{}\n"


def test_a_file_that_grows_is_sent_as_the_table_says(tmp_path):
    """A log is appended to while it is sent: only what was announced comes, and its sum is right."""
    log = tmp_path / "log"
    log.write_bytes(b"x" * ANNOUNCED)
    with subprocess.Popen(sending(tmp_path, "log"), stdout=subprocess.PIPE) as sender:
        # The table is written before the contents, which wait here for room in the pipe.
        (size, digest) = json.loads(sender.stdout.readline())["log"]
        with log.open("ab") as file:
            file.write(b"y" * 1000)
        content = sender.stdout.read()
    assert sender.returncode == 0
    assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest) == (ANNOUNCED, digest)
