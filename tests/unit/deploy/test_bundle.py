"""The bundle: the same content has the same name everywhere, and all that hosts need is in it."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest

from deploy.bundle import PACKAGES, code_directory, listed, make_bundle, package_trees, push
from deploy.errors import ConnectionLost, HostError, InputError
from deploy.remote.fake import FakeRemote
from deploy.remote.retry import RETRIES

REPOSITORY = Path(__file__).parents[3]
OTHER = ("0123456789abcdef",)


@pytest.fixture
def tree(tmp_path):
    """Give a directory with two files."""
    folder = tmp_path / "sample"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("1\n")
    (folder / "data" / "x.bin").write_bytes(b"\x00\xff")
    return folder


def made(tree):
    return make_bundle({"sample": tree})


def contents(bundle):
    return {file.name: bundle.contents[file.sha256] for file in bundle.files}


def test_the_digest_depends_on_names_and_contents_alone(tree):
    """Dates, permissions and caches do not change it; a name or a byte does."""
    first = made(tree)
    os.utime(tree / "__init__.py", (1, 1))
    (tree / "__init__.py").chmod(0o600)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "x.pyc").write_text("x")
    assert made(tree) == first
    (tree / "__init__.py").write_text("2\n")
    changed = made(tree).digest
    (tree / "__init__.py").write_text("1\n")
    assert made(tree).digest == first.digest != changed
    (tree / "data" / "x.bin").rename(tree / "data" / "y.bin")
    assert made(tree).digest not in (first.digest, changed)


def test_where_one_file_ends_and_the_next_begins_counts(tree):
    """One file whose content looks like the end of it and the beginning of another is not those two files."""
    (tree / "a").write_bytes(b"1")
    (tree / "b").write_bytes(b"2")
    two = made(tree).digest
    (tree / "b").unlink()
    (tree / "a").write_bytes(b"1sample/b\x002")
    assert made(tree).digest != two


def test_trees_stand_under_their_names(tree):
    """The same directory under two names is twice in the bundle, and its contents once."""
    bundle = make_bundle({"one": tree, "two": tree})
    assert [file.name for file in bundle.files] == [
        "one/__init__.py",
        "one/data/x.bin",
        "two/__init__.py",
        "two/data/x.bin",
    ]
    assert sorted(bundle.contents.values()) == [b"\x00\xff", b"1\n"]


def test_a_package_that_is_not_installed_is_an_error():
    """A bundle that lacks a package would fail on the hosts."""
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        package_trees(["no_such_package"])


@pytest.mark.parametrize("name", [b"a\nb", b"\xff"])
def test_names_that_no_list_can_hold_are_refused(tree, name):
    """A line break or a name that is not text: the error names the file."""
    Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).write_text("x")
    with pytest.raises(InputError, match=r"sample/.*cannot be pushed"):
        made(tree)


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
    assert bundle == make_bundle()


def test_a_stream_is_the_list_and_what_is_asked_for(tree):
    """All in one, or a part: the sums in the order of the contents, and nothing else."""
    (tree / "big.txt").write_bytes(b"text " * 50_000)
    bundle = made(tree)
    big = bundle.contents[hashlib.sha256(b"text " * 50_000).hexdigest()]
    for missing, packing in ((set(bundle.contents), b"zlib"), ({hashlib.sha256(b"1\n").hexdigest()}, b"none")):
        head, _, rest = b"".join(bundle.pieces(bundle.packed(missing))).partition(b"\n")
        assert head.split() == [b"3", b"%d" % len(missing), packing]
        assert rest.startswith(listed(bundle.files).encode())
        sums = rest.removeprefix(listed(bundle.files).encode()).split(b"\n", len(missing))
        body = zlib.decompress(sums.pop()) if packing == b"zlib" else sums.pop()
        assert body == b"".join(bundle.contents[name.decode()] for name in sums)
        assert (big in body) == (packing == b"zlib")


def test_what_does_not_shrink_is_not_compressed(tree):
    """Random bytes would only cost the host time."""
    (tree / "weights").write_bytes(os.urandom(200_000))
    assert made(tree).whole.packing == "none"


def test_it_is_pushed_only_where_it_is_missing(facts):
    """A host whose look lists the digest is not touched; one without any bundle is not asked."""
    bundle, remote = make_bundle(), FakeRemote("a")
    assert not push(remote, facts(code=(bundle.digest,)), bundle)
    assert remote.calls == []
    assert push(remote, facts(), bundle)
    assert [call.verb for call in remote.calls] == ["put"]
    assert remote.calls[0].argv[-2:] == ("take", f"/home/pi/.fieldlab/code/{bundle.digest}")
    assert code_directory(facts(), bundle) == remote.calls[0].argv[-1]


def test_a_host_with_other_bundles_is_asked_what_it_lacks(facts, tree):
    """One look, which changes nothing, and one stream of what is missing."""
    bundle = made(tree)
    lacking = hashlib.sha256(b"1\n").hexdigest()
    remote = FakeRemote("a", {lambda argv: "missing" in argv: f"{lacking}\n"})
    assert push(remote, facts(code=OTHER), bundle)
    assert [call.verb for call in remote.calls] == ["read", "put"]
    assert remote.calls[0].stdin.decode() == "".join(f"{sha} {len(data)}\n" for sha, data in bundle.contents.items())
    assert remote.calls[1].stdin == b"".join(bundle.pieces(bundle.packed({lacking})))


@pytest.mark.parametrize("answer", ["what?", "0" * 64, "../../x"])
def test_an_answer_that_makes_no_sense_is_an_error_of_that_host(facts, tree, answer):
    """A host may send anything: only sums of the bundle are taken."""
    remote = FakeRemote("a", {lambda argv: "missing" in argv: answer})
    with pytest.raises(HostError, match=r"^a: push: an answer that cannot be understood: "):
        push(remote, facts(code=OTHER), made(tree))


def test_a_lost_connection_is_tried_again_a_few_times(facts):
    """The next verb connects again; one that is lost for good is told."""
    remote = FakeRemote("a", {(): ConnectionLost("a", "push", "the connection was lost")})
    with pytest.raises(ConnectionLost):
        push(remote, facts(), make_bundle())
    assert len(remote.calls) == 1 + RETRIES
