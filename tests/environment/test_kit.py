"""Locks, uv and wheels for other machines than this one, from a real index."""

from __future__ import annotations

import gzip
import re
import zipfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from deploy.app import embedded
from deploy.environment import Kit
from deploy.environment import kit as kit_module
from deploy.environment.target import Target
from deploy.errors import DeployError
from deploy.remote.fanout import fan_out

if TYPE_CHECKING:
    from pathlib import Path

PAYLOAD = embedded("flclient.apps.payload")
PI = Target("Linux", "aarch64", "3.11")
MAC = Target("Darwin", "arm64", "3.12")
ELF_AARCH64 = 183


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if uv or pip is asked for anything."""

    def refuse(argv: list[str], *_: object) -> None:
        pytest.fail(f"{argv[:4]} was run")

    monkeypatch.setattr(kit_module, "run_tool", refuse)


@pytest.mark.parametrize("target", [PI, MAC], ids=str)
def test_a_lock_for_another_machine(kit: Kit, target: Target) -> None:
    """What flserver and flclient need is pinned, every pin with hashes."""
    lock = kit.lock(target)
    assert {"flwr", "grpcio", "msgspec", "numpy", "psutil"} <= set(lock.versions)
    assert lock.text.count("==") == len(lock.versions)
    assert all("--hash=sha256:" in pin for pin in re.split(r"(?m)^(?=\S)", lock.text)[1:])


def test_an_apps_own_dependencies_are_pinned_with_ours(kit: Kit, cache: Path) -> None:
    """What its pyproject.toml asks for is in the lock, where it asks for it, and Flower's simulation is not."""
    lines = ("flwr[simulation]>=1.22.0", "toolz>=0.12", "cloudpickle; sys_platform == 'darwin'")
    app = msgspec.structs.replace(PAYLOAD, dependencies=lines)
    pins = {target: Kit(app, root=cache).lock(target).versions for target in (PI, MAC)}
    assert all({"flwr", "toolz"} <= set(versions) for versions in pins.values())
    assert ["cloudpickle" in pins[target] for target in (PI, MAC)] == [False, True]
    assert "ray" not in pins[PI]
    assert "toolz" not in kit.lock(PI).versions


def test_an_app_for_another_flower_cannot_be_had(kit: Kit, cache: Path) -> None:  # noqa: ARG001 - an index is there
    """Nothing suits both the app and the toolkit: uv's own words say which of them ask for what."""
    app = msgspec.structs.replace(PAYLOAD, dependencies=("flwr[simulation]==1.13.1",))
    with pytest.raises(DeployError, match=r"(?s)finding packages for Linux aarch64, Python 3\.11.*flwr.*1\.13\.1"):
        Kit(app, root=cache).lock(PI)


def test_wheels_for_another_machine(small: Kit) -> None:
    """A Raspberry Pi's wheels come to a PC: they are the machine's, or no machine's."""
    files = small.wheels(small.lock(PI))
    assert len(files) == 2
    assert all(re.search(r"aarch64\.whl|-none-any\.whl", file.name) for file in files)
    assert all(zipfile.is_zipfile(file.path) for file in files)


def test_uv_for_another_machine(small: Kit) -> None:
    """The program in uv's wheel for the host's machine, not for ours."""
    file = small.uv(PI)
    with gzip.open(file.path) as program:
        head = program.read(20)
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == ELF_AARCH64


def test_what_was_got_ready_once_needs_no_index(small: Kit, cache: Path, no_tools: None) -> None:  # noqa: ARG001
    """A second command, on a train: the same lock, wheels and uv come from the cache."""
    again = Kit(PAYLOAD, root=cache)
    again.requirements = small.requirements
    lock = again.lock(PI)
    assert again.wheels(lock)
    assert again.uv(PI).path.is_file()


def test_fifty_hosts_of_a_kind_are_one_resolution(small: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads get the same lock, and uv ran once."""
    runs = []
    real = kit_module.run_tool
    monkeypatch.setattr(kit_module, "run_tool", lambda *words: (runs.append(words), real(*words)))
    kit = Kit(PAYLOAD, root=tmp_path)
    kit.requirements = small.requirements
    locks = fan_out({str(i): PI for i in range(50)}, kit.lock)
    assert len(set(locks.values())) == 1
    assert len(runs) == 1


def test_hosts_of_another_kind_get_the_same_versions(small: Kit, tmp_path: Path) -> None:  # noqa: ARG001
    """A Raspberry Pi that joins later is not given newer packages than the lab has; a refresh gives them to all."""
    kit = Kit(PAYLOAD, root=tmp_path)
    kit.requirements = ("msgspec>=0.19,<0.22",)
    old = kit.lock(PI)
    family = kit._family
    kit.requirements = ("msgspec>=0.19",)
    family.rename(kit._family)
    assert kit.lock(MAC).versions == old.versions
    new = Kit(PAYLOAD, root=tmp_path, refresh=True)
    new.requirements = kit.requirements
    assert new.lock(MAC).versions["msgspec"] > old.versions["msgspec"]
    assert new.lock(PI).versions == new.lock(MAC).versions


def test_another_version_of_uv_resolves_anew(small: Kit, tmp_path: Path) -> None:
    """The cache never answers for other requirements, or for another uv."""
    kit = Kit(PAYLOAD, root=tmp_path)
    places = {kit._family}
    kit.uv_version = "0.0.0"
    places.add(kit._family)
    kit.requirements = small.requirements
    assert kit._family not in places
    assert len(places) == 2


def test_a_cache_that_lost_a_file_gets_it_again(small: Kit) -> None:
    """It may be cleaned at any time."""
    lock = small.lock(PI)
    first = small.wheels(lock)
    first[0].path.unlink()
    again = Kit(PAYLOAD, root=small._cache.root)
    again.requirements = small.requirements
    assert again.wheels(lock) == first
    assert first[0].path.is_file()


def test_what_cannot_be_found_is_said(small: Kit, tmp_path: Path) -> None:  # noqa: ARG001 - an index can be reached
    """The error says for which kind of host, and what uv said."""
    kit = Kit(PAYLOAD, root=tmp_path)
    kit.requirements = ("msgspec>=999",)
    with pytest.raises(
        DeployError, match=r"(?s)^finding packages for Linux aarch64, Python 3.11 failed on this machine.*msg"
    ):
        kit.lock(PI)
    assert not list(tmp_path.rglob("*.txt"))


def test_an_index_that_cannot_be_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without internet, and nothing in the cache, the error names the machine that lacks it."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    kit = Kit(PAYLOAD, root=tmp_path / "cache")
    with pytest.raises(DeployError, match=r"(?s)failed on this machine\n.*[Ff]ailed to fetch"):
        kit.lock(PI)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """One sentence that names the place."""
    (tmp_path / "file").touch()
    kit = Kit(PAYLOAD, root=tmp_path / "file" / "cache")
    with pytest.raises(DeployError, match=r"^the cache .*/file/cache cannot be written: Not a directory$"):
        kit.lock(PI)
