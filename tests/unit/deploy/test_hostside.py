"""The scripts that run on a host, run for real on this machine, with a home directory of their own."""

from __future__ import annotations

import ast
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
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import hostside
from deploy.app import embedded
from deploy.bundle import Bundle, File, Packed, code_directory, listed, make_bundle, push
from deploy.errors import HostError
from deploy.facts import findings, look
from deploy.health import examine
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


@pytest.mark.parametrize("python", [sys.executable, "/no/venv"])
def test_a_look_finds_what_an_app_needs_by_its_distributions_name(here, python):
    """Names on disk are not those that people write; what is not there is None, and without a Python nobody knows."""
    names = ("scikit-learn", "typing-extensions", "pyyaml", "a-package-that-nobody-has")
    found = look(host(python), here, names).packages
    if python == "/no/venv":
        assert found == {}
        return
    assert {name: found[name] for name in names[:3]} == {name: importlib.metadata.version(name) for name in names[:3]}
    assert found["a-package-that-nobody-has"] is None
    assert set(found) == {*names, "flwr", "grpc", "msgspec", "numpy", "torch", "torchvision"}
    examined = examine(host(python), here, "127.0.0.1", names)
    assert examined.facts.packages == found


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
    (finding,) = findings(found, embedded("flclient.apps.payload"))
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


def bundle_of(**files):
    """Return a bundle of made-up files; `__` in a keyword stands for `/`."""
    found = tuple(File(name.replace("__", "/"), len(data), sha256(data)) for name, data in sorted(files.items()))
    return named(*found, contents={sha256(data): data for data in files.values()})


def named(*files, contents):
    order = tuple(contents)
    packed = Packed(order, "none", b"".join(contents.values()))
    return Bundle(sha256(listed(files).encode())[:16], files, contents, packed)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def left_behind(here):
    """Return the files and links on the host."""
    return [path for path in here.home.parent.rglob("*") if not path.is_dir() or path.is_symlink()]


def contents(place):
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert found.pop(".files")
    return found


def packed_contents(bundle):
    return {file.name: bundle.contents[file.sha256] for file in bundle.files}


@dataclass(frozen=True)
class Counting:
    """A host that also counts what is fed to its commands."""

    inner: Any
    fed: list[tuple[str, int]] = field(default_factory=list)
    host: str = "here"

    def put(self, stream, argv, *, step):
        data = b"".join(stream)
        self.fed.append(("put", len(data)))
        return self.inner.put(iter([data]), argv, step=step)

    def read(self, argv, *, step, stdin=b""):
        self.fed.append(("read", len(stdin)))
        return self.inner.read(argv, step=step, stdin=stdin)


def test_a_bundle_arrives_as_it_was_packed(here, own_facts):
    """All files byte for byte, nothing else, and the code runs from there."""
    bundle = make_bundle()
    assert push(here, own_facts, bundle)
    place = Path(code_directory(own_facts, bundle))
    assert contents(place) == packed_contents(bundle)
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
    bundle = bundle_of(p__a=b"1")
    push(here, own_facts, bundle)
    before = tree(here.home)
    assert push(here, own_facts, bundle)
    after = tree(here.home)
    assert {path: (found[0], found[2]) for path, found in after.items()} == {
        path: (found[0], found[2]) for path, found in before.items()
    }


OLD = {"p__same": b"s" * 90_000, "p__same2": b"s" * 90_000, "p__changed": b"c" * 50_000, "p__moved": b"m" * 70_000}
NEW = {"p__same": b"s" * 90_000, "p__changed": b"d" * 50_000, "q__moved": b"m" * 70_000, "q__empty": b""}


def test_only_contents_that_are_missing_are_sent(here, own_facts):
    """One changed file of several: it alone goes over the wire; a file that has moved is copied on the host."""
    push(here, own_facts, bundle_of(**OLD))
    counting, new = Counting(here), bundle_of(**NEW)
    assert push(counting, look(host(), here), new)
    assert [verb for verb, _ in counting.fed] == ["read", "put"]
    assert counting.fed[1][1] - 50_000 < 1000
    assert contents(Path(code_directory(own_facts, new))) == packed_contents(new)


def test_a_file_that_changed_on_the_host_is_not_trusted(here, own_facts):
    """Somebody edited a pushed file, size kept, or removed one: the new bundle is whole all the same."""
    old, new = bundle_of(**OLD), bundle_of(**NEW)
    for number, spoil in enumerate((lambda file: file.write_bytes(b"S" * 90_000), Path.unlink)):
        place = here.home / str(number)
        push(here, own_facts := msgspec.structs.replace(own_facts, workdir=str(place)), old)
        for name in ("same", "same2"):
            spoil(place / "code" / old.digest / "p" / name)
        assert push(here, msgspec.structs.replace(own_facts, code=(old.digest,)), new)
        assert contents(Path(code_directory(own_facts, new))) == packed_contents(new)
        assert {path.name for path in (place / "code").iterdir()} == {old.digest, new.digest}


@pytest.mark.parametrize("spoilt", [b"", b"x", b"a b c\n", b"\xff\xff 1 x\n", None])
def test_a_list_that_makes_no_sense_is_a_bundle_that_holds_nothing(here, own_facts, spoilt):
    """Also that of a bundle pushed by an older version, which has none."""
    old, new = bundle_of(**OLD), bundle_of(**NEW)
    push(here, own_facts, old)
    file = here.home / ".fieldlab" / "code" / old.digest / ".files"
    file.unlink() if spoilt is None else file.write_bytes(spoilt)
    assert push(here, look(host(), here), new)
    assert contents(Path(code_directory(own_facts, new))) == packed_contents(new)


def test_dense_and_plain_streams_of_any_size_arrive(here, own_facts):
    """Compressed ones too: sizes around the pieces in which they are read, and files that are equal."""
    sizes = (0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18)
    for number, kind in enumerate((b"0123456789", os.urandom(1000))):
        folder = here.home / f"made{number}"
        folder.mkdir()
        for size in sizes:
            (folder / f"{size}").write_bytes((kind * (size // len(kind) + 1))[:size])
            (folder / f"again-{size}").write_bytes((folder / f"{size}").read_bytes())
        bundle = make_bundle({"t": folder})
        assert bundle.whole.packing == "zlib"
        assert push(here, own_facts, bundle)
        assert contents(Path(code_directory(own_facts, bundle))) == packed_contents(bundle)


def replaced(bundle, **changed):
    return msgspec.structs.replace(bundle, whole=msgspec.structs.replace(bundle.whole, **changed))


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"1" * 4999},
        {"body": b"1" * 5001},
        {"body": b"x" + b"1" * 4999},
        {"body": b""},
        {"packing": "zlib"},
        {"packing": "zlib", "body": zlib.compress(b"1" * 5000)[:-3]},
        {"packing": "zlib", "body": zlib.compress(b"1" * 5000) + b"more"},
        {"packing": "zlib", "body": zlib.compress(b"1" * 6000)},
        {"packing": "zlib", "body": zlib.compress(b"1" * 5000)[:-1] + b"x"},
        {"contents": ()},
        {"contents": ("0" * 64,)},
        {"contents": (sha256(b"1" * 5000),) * 2},
    ],
)
def test_a_damaged_stream_is_refused(here, own_facts, change):
    """One line says so, and nothing that looks like code is left, nor anything else."""
    with pytest.raises(HostError, match=r"^here: push: the bundle arrived damaged: [^\n]*$"):
        push(here, own_facts, replaced(bundle_of(p__a=b"1" * 5000), **change))
    assert left_behind(here) == []
    assert list((here.home / ".fieldlab" / "code").iterdir()) == []


def test_a_list_that_is_not_the_digests_own_is_refused(here, own_facts):
    """Contents and sums agree, but it is another bundle than its name says."""
    bundle = msgspec.structs.replace(bundle_of(p__a=b"1"), digest="0123456789abcdef")
    with pytest.raises(HostError, match="arrived damaged"):
        push(here, own_facts, bundle)
    assert left_behind(here) == []


@pytest.mark.parametrize("name", ["../evil", "p/../../../evil", "..", ".", "", "/evil", "p/../.files", "a\0b"])
def test_only_files_below_the_directory_are_taken(here, own_facts, name):
    """Names that lead out, and that of the list, are refused, with all of the bundle."""
    files = (File("p/a.py", 1, sha256(b"1")), File(name, 4, sha256(b"evil")))
    with pytest.raises(HostError, match="arrived damaged"):
        push(here, own_facts, named(*files, contents={sha256(b"1"): b"1", sha256(b"evil"): b"evil"}))
    assert left_behind(here) == []
    assert list((here.home / ".fieldlab" / "code").iterdir()) == []


def test_a_name_cannot_be_used_twice(here, own_facts):
    """Nor as a file and a directory: such a list is an error, not a bundle that lacks something."""
    for second in ("p/a", "p/a/b"):
        files = (File("p/a", 1, sha256(b"1")), File(second, 1, sha256(b"2")))
        with pytest.raises(HostError, match=r"p/a.*: (File exists|Not a directory)"):
            push(here, own_facts, named(*files, contents={sha256(b"1"): b"1", sha256(b"2"): b"2"}))
        assert left_behind(here) == []


def test_drafts_of_killed_receivers_go_after_a_while(here, own_facts):
    """An old one is removed with the next push; a young one may be another controller's."""
    code = here.home / ".fieldlab" / "code"
    for name in ("old.1.draft", "young.2.draft"):
        (code / name / "p").mkdir(parents=True)
        (code / name / "p" / "a").write_text("half")
    os.utime(code / "old.1.draft", (1, 1))
    bundle = bundle_of(p__a=b"1")
    push(here, own_facts, bundle)
    assert {path.name for path in code.iterdir()} == {bundle.digest, "young.2.draft"}


def test_a_directory_that_cannot_be_made_is_named(here, own_facts):
    """A file stands where the work directory should be; one sentence says so, and what to do."""
    (here.home / ".fieldlab").write_text("in the way")
    with pytest.raises(
        HostError,
        match=r"^here: push: \S*/home/\.fieldlab\S*: (Not a directory|File exists); choose another workdir[^\n]*$",
    ):
        push(here, own_facts, bundle_of(a=b"1"))


def test_modules_in_the_home_directory_are_not_ours(here, own_facts):
    """A student's hashlib.py there is not run by a push or a pull."""
    for name in ("hashlib", "stat", "zlib", "os"):
        (here.home / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    assert push(here, own_facts, bundle_of(a=b"1"))
    here.get(hostside.argv(sys.executable, "send", str(here.home), "final"), io.BytesIO(), step="pull")


# --- send ------------------------------------------------------------------------------------------------------------


ANNOUNCED = (8 << 20) + 5
"""Bytes of a log: more than a pipe holds, and no whole number of pieces."""


def sending(directory, *words, mode="final"):
    return hostside.argv(sys.executable, "send", str(directory), mode, *words)


def test_files_are_sent_with_sizes_and_sums(tmp_path):
    """A table, then the bytes with the sum after each piece; what is missing or no regular file is left out."""
    contents = {"a": b"one\n", "b": b"", "c": bytes(range(256)) * 1024 + b"end"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("a")
    asked = [word for name in ("c", "missing", "directory", "pipe", "link", "a", "b") for word in (name, "0", "0")]
    told = subprocess.run(sending(tmp_path, *asked), capture_output=True, check=True)
    first, sums = contents["c"][:-3], [hashlib.sha256(contents[name]).digest() for name in ("c", "a", "b")]
    assert told.stdout == b"".join(
        [
            b"3\n262147 c\n4 a\n0 b\n",
            *(first, hashlib.sha256(first).digest(), b"end", sums[0]),
            *(b"one\n", sums[1], sums[2]),
        ]
    )


def test_only_what_is_new_is_sent(tmp_path):
    """After what the controller has; the sum is that of the whole file with `final`, else that of the new bytes."""
    (tmp_path / "a").write_bytes(b"old and new")
    for mode, hashed in (("final", b"old and new"), ("more", b"and new")):
        told = subprocess.run(sending(tmp_path, "a", "4", "0", mode=mode), capture_output=True, check=True)
        assert told.stdout == b"1\n11 a\nand new" + hashlib.sha256(hashed).digest()


def test_nothing_to_send_is_an_empty_table(tmp_path):
    """A process that never started has left nothing, and that is no error."""
    told = subprocess.run(sending(tmp_path / "gone", "a", "0", "0"), capture_output=True, check=True)
    assert told.stdout == b"0\n"


def test_a_file_that_grows_is_sent_as_the_table_says(tmp_path):
    """A log is appended to while it is sent: only what was announced comes, and its sum is right."""
    log = tmp_path / "log"
    log.write_bytes(b"x" * ANNOUNCED)
    with subprocess.Popen(sending(tmp_path, "log", "0", "0"), stdout=subprocess.PIPE) as sender:
        # The table is written before the contents, which wait here for room in the pipe.
        assert sender.stdout.readline() == b"1\n"
        assert sender.stdout.readline() == b"%d log\n" % ANNOUNCED
        with log.open("ab") as file:
            file.write(b"y" * 1000)
        content = sender.stdout.read()
    assert sender.returncode == 0
    assert len(content) == ANNOUNCED + 32 * 33
    assert content[-32:] == hashlib.sha256(b"x" * ANNOUNCED).digest()
