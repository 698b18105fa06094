"""The bundle: the same content has the same name everywhere, and all that hosts need is in it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from deploy.bundle import PACKAGES, code_directory, make_bundle, push
from deploy.remote.fake import FakeRemote

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Give the directory of a package that can be found, with two files."""
    folder = tmp_path / "site" / "sample_package"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("1\n")
    (folder / "data" / "x.bin").write_bytes(b"\x00\xff")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def digest():
    return make_bundle(["sample_package"]).digest


def contents(bundle):
    with tarfile.open(fileobj=io.BytesIO(bundle.archive)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}


def test_the_digest_depends_on_names_and_contents_alone(package):
    """Dates, permissions and caches do not change it; a name or a byte does."""
    first = make_bundle(["sample_package"])
    os.utime(package / "__init__.py", (1, 1))
    (package / "__init__.py").chmod(0o600)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_text("x")
    assert make_bundle(["sample_package"]) == first
    (package / "__init__.py").write_text("2\n")
    changed = digest()
    (package / "__init__.py").write_text("1\n")
    assert digest() == first.digest != changed
    (package / "data" / "x.bin").rename(package / "data" / "y.bin")
    assert digest() not in (first.digest, changed)


def test_where_one_file_ends_and_the_next_begins_counts(package):
    """One file whose content looks like the end of it and the beginning of another is not those two files."""
    (package / "a").write_bytes(b"1")
    (package / "b").write_bytes(b"2")
    two = digest()
    (package / "b").unlink()
    (package / "a").write_bytes(b"1sample_package/b\x002")
    assert digest() != two


def test_a_package_that_is_not_installed_is_an_error():
    """A bundle that lacks a package would fail on the hosts."""
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        make_bundle(["no_such_package"])


def test_everything_that_hosts_run_is_in_it():
    """Every file of the three packages byte for byte, data sets included, and no caches."""
    bundle = make_bundle()
    wanted = {
        path.relative_to(REPOSITORY).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert contents(bundle) == wanted
    assert any(name.endswith("/digits.npz") for name in wanted)
    assert bundle.files == len(wanted)
    assert bundle == make_bundle()


def test_its_pieces_are_the_archive():
    """Nothing is lost where it is cut, and the sum is that of all pieces."""
    bundle = make_bundle()
    joined = b"".join(bundle.pieces())
    assert joined == bundle.archive
    assert hashlib.sha256(joined).hexdigest() == bundle.archive_sha256


def test_it_is_pushed_only_where_it_is_missing(facts):
    """A host whose look lists the digest is not touched."""
    bundle, remote = make_bundle(), FakeRemote("a")
    assert not push(remote, facts(code=(bundle.digest,)), bundle)
    assert remote.calls == []
    assert push(remote, facts(code=("0123456789abcdef",)), bundle)
    assert [call.verb for call in remote.calls] == ["put"]
    assert remote.calls[0].argv[3] == code_directory(facts(), bundle) == f"/home/pi/.fieldlab/code/{bundle.digest}"
