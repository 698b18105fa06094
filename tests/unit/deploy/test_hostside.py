"""The scripts that run on a host, run for real on this machine, with a home directory of their own."""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import hostside
from deploy.bundle import Bundle, code_directory, make_bundle, push
from deploy.errors import CommandFailed
from deploy.facts import findings, look
from deploy.hostside.look import encoded
from deploy.inventory import Host, Python, Ssh
from flcommon import identity, process

VERSION = ".".join(map(str, sys.version_info[:3]))


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
    assert found.python_version == VERSION
    assert (found.python_bits, found.writable, found.read_only, found.trouble) == (64, True, False, "")
    assert (found.code, found.envs, found.running) == ((), (), ())
    assert (found.system, found.machine, found.hostname) == (
        os.uname().sysname,
        os.uname().machine,
        os.uname().nodename,
    )
    assert found.user == pwd.getpwuid(os.getuid()).pw_name
    assert found.packages == {
        package: importlib.metadata.version("grpcio" if package == "grpc" else package)
        for package in ("flwr", "grpc", "msgspec", "numpy", "torch", "torchvision")
    }


def test_a_look_imports_nothing_that_costs(here):
    """200 hosts are looked at by every command: what took most of the CPU time is not imported again.

    A Raspberry Pi takes a tenth of a second for these; the interpreter's own start already has the rest.
    """
    costly = {"json", "re", "platform", "subprocess", "shutil", "socket", "typing", "importlib.metadata", "getpass"}
    told = "import sys\n" + hostside.program("look", "flcommon.identity") + "\nprint(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", told, "", str(here.home), ""]
    *_, modules = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert not costly & set(modules.split())


def test_without_any_python_a_look_still_finds_the_machine(here):
    """The shell says the same of the machine as Python does; what only Python could tell is empty."""
    (here.home / ".fieldlab" / "code" / "0123456789abcdef").mkdir(parents=True)
    (here.home / ".fieldlab" / "code" / "0123456789abcdef.4711").mkdir()
    known = msgspec.to_builtins(look(host(), here))
    found = msgspec.to_builtins(look(host("/no/venv"), here))
    assert (found["python"], found["python_version"], found["packages"]) == ("", "", {})
    assert found["trouble"] == "there is no Python at /no/venv"
    same = ("home", "user", "hostname", "workdir", "system", "machine", "cpus", "memory_mb", "writable", "code", "envs")
    assert {key: found[key] for key in same} == {key: known[key] for key in same}
    assert found["code"] == ("0123456789abcdef",)
    assert found["python_bits"] == 64
    assert abs(found["disk_free_mb"] - known["disk_free_mb"]) < 100
    assert abs(found["wall_ns"] - known["wall_ns"]) < 60e9


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox", "mksh", "zsh"])
@pytest.mark.parametrize("python", [sys.executable, "/no/venv"])
def test_any_shell_that_a_host_calls_sh_will_do(here, monkeypatch, tmp_path, shell, python):
    """Debian's is dash, others have bash, Alpine busybox, macOS zsh or bash: all answer alike."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    tmp_path.joinpath("bin").mkdir()
    tmp_path.joinpath("bin", "sh").symlink_to(shutil.which(shell))
    place = here.home / ".fieldlab" / "env" / "aaaa"
    place.mkdir(parents=True)
    (place / ".complete").touch()
    known = look(host(python), here)
    monkeypatch.setattr(os, "defpath", f"{tmp_path}/bin:{os.defpath}")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    found = look(host(python), here)
    same = {"wall_ns": 0, "disk_free_mb": 0}
    assert msgspec.structs.replace(found, **same) == msgspec.structs.replace(known, **same)
    assert found.envs == ("aaaa",)


def test_without_python_names_cannot_break_the_answer(here):
    """Quotes, backslashes and spaces in what the shell finds give no JSON of their own."""
    strange = here.home / ".fieldlab" / "code" / 'a"b\\c d'
    strange.mkdir(parents=True)
    assert look(host("/no/venv"), here).code == ("abc d",)


def fake_python(here, prelude):
    """Make a Python on the host that runs `prelude` before anything that it is given by `-c`."""
    program = here.home / "python3"
    program.write_text(f'#!/bin/sh\nshift; code=$1; shift\nexec {sys.executable} -c "{prelude}\n$code" "$@"\n')
    program.chmod(0o755)
    return host(str(program))


def test_a_python_that_is_too_old_for_the_script_is_named(here):
    """It is found by its version before it reads a line that it could not understand."""
    found = look(fake_python(here, "import sys; sys.version_info = (3, 5, 2)"), here)
    assert (found.python, found.python_version) == (f"{here.home}/python3", "3.5.2")
    assert found.trouble == "Python 3.5.2 is too old"
    (finding,) = findings(found, "flclient.apps.payload")
    assert finding.what == "Python 3.5.2 is too old"


def test_the_first_lines_are_understood_by_python_2():
    """What asks for the version has no syntax that Python 2 and 3.5 lack: no f-string, no annotation, no print."""
    (enter,) = re.findall(r"^ENTER='(.*?)'", hostside.source("look.sh"), re.DOTALL | re.MULTILINE)
    ast.parse(enter, feature_version=(3, 4))
    assert "print" not in enter


def test_a_python_that_does_not_work_is_named(here):
    """With its last words, as of one whose libraries are gone."""
    found = look(fake_python(here, "import sys; sys.exit('cannot load libpython')"), here)
    assert (found.python, found.python_version) == ("", "")
    assert found.trouble == f"{here.home}/python3 does not work: cannot load libpython (exit status 1)"


def test_a_32_bit_python_says_so(here):
    """On a 64-bit kernel with a 32-bit system, as Raspberry Pi OS (32 bits) has it."""
    assert look(fake_python(here, "import sys; sys.maxsize = 2**31 - 1"), here).python_bits == 32


def test_a_prepared_environment_looks_where_the_system_has_no_python(here):
    """A host whose only Python came with an environment: complete ones are listed, and the first can look."""
    for name in ("aaaa", "bbbb", "cccc"):
        (here.home / ".fieldlab" / "env" / name / "bin").mkdir(parents=True)
    for name in ("bbbb", "cccc"):
        (here.home / ".fieldlab" / "env" / name / "bin" / "python").symlink_to(sys.executable)
    (here.home / ".fieldlab" / "env" / "aaaa" / ".complete").touch()
    (here.home / ".fieldlab" / "env" / "cccc" / ".complete").touch()
    found = look(host("/no/python3"), here)
    assert found.envs == ("aaaa", "cccc")
    assert found.python_version == VERSION
    assert "/env/cccc/" in found.python
    assert found.trouble == "there is no Python at /no/python3"
    assert look(host(), here).trouble == ""


def test_processes_that_are_alive_are_listed(here):
    """By pid and start time, as `flcommon.process` does: not one that has ended, is another by now, or is nonsense."""
    campaigns = here.home / ".fieldlab" / "campaigns"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        truth = process.identify(child.pid)
        contents = {
            "alive": msgspec.json.encode(truth),
            "reused": msgspec.json.encode(process.Identity(child.pid, truth.started + "0")),
            "nonsense": b"[1, 2",
            "text": b'{"pid": "x", "started": null}',
            "binary": b"\xff",
            "gone": msgspec.json.encode(process.Identity(child.pid, "gone")),
        }
        for name, content in contents.items():
            (campaigns / "c1" / name).mkdir(parents=True)
            (campaigns / "c1" / name / "process.json").write_bytes(content)
        (campaigns / "c2" / "never-started").mkdir(parents=True)
        (campaigns / "a file").touch()
        assert look(host(), here).running == (str(campaigns / "c1" / "alive"),)
        assert process.running(campaigns) == [campaigns / "c1" / "alive"]
        child.communicate(timeout=10)
    assert look(host(), here).running == ()


def test_packages_are_found_by_the_names_of_their_files(here):
    """The first on the path counts; Debian's old form, local versions and other packages do not confuse."""
    for place, names in {
        "one": ["torch-2.5.1+cpu.dist-info", "numpy-1.24.2-py3.11.egg-info", "flwr_datasets-0.4.0.dist-info"],
        "two": ["torch-1.0.dist-info", "msgspec-0.19.0.dist-info", "grpcio-1.64.0.dist-info", "grpc"],
    }.items():
        for name in names:
            (here.home / place / name).mkdir(parents=True)
    places = [str(here.home / place) for place in ("one", "no such place", "two")]
    found = look(
        fake_python(here, f"import sys; sys.path[:] = {places} + [p for p in sys.path if 'site' not in p]"), here
    )
    assert found.packages == {
        "flwr": None,
        "grpc": "1.64.0",
        "msgspec": "0.19.0",
        "numpy": "1.24.2",
        "torch": "2.5.1+cpu",
        "torchvision": None,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_the_scripts_own_json_is_json(value):
    """Whatever names a host has: the standard library and msgspec read back what was written, in plain ASCII."""
    told = encoded(value)
    assert json.loads(told) == value
    assert told.isascii()
    assert "\n" not in told


def test_names_that_are_no_text_are_still_told():
    """The name of a file may be any bytes; Python holds those that are no UTF-8 as lone surrogates."""
    assert msgspec.json.decode(encoded(os.fsdecode(b"caf\xe9"))) == "caf?"


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
        found = look(host(path), here)
        assert (found.python_version, found.trouble) == (VERSION, "")


@pytest.mark.parametrize("name", ["look", "health", "listen", "reach"])
def test_the_scripts_are_understood_by_old_pythons(name):
    """A Python that is too old for us must be able to say so: no syntax after 3.7, in ours and what they take along."""
    ast.parse(hostside.source(name), feature_version=(3, 7))
    ast.parse(Path(identity.__file__).read_text(), feature_version=(3, 7))


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
    argv = ["env", f"PYTHONPATH={place}", own_facts.python, "-P", "-m", "flcommon.process", "list", "/nowhere"]
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
