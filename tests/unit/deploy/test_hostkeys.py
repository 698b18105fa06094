"""What known_hosts files are understood to say, with OpenSSH's own ssh-keygen as the judge."""

from __future__ import annotations

import base64
import hashlib
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.remote.hostkeys import KnownHost, entries_for, fingerprint, known_line

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))
OTHER = KEY[:-1] + b"\xff"


def known(tmp_path: Path, text: str, name: str = "pi-a", inventory: str = "") -> KnownHost:
    (tmp_path / "known").write_text(text)
    return KnownHost(name, (tmp_path / "known",), inventory, entries_for(tmp_path / "known", name))


@pytest.mark.parametrize("name", ["pi-a", "[pi-a]:2222", "192.0.2.1", "fe80::1%eth0", "[::1]:2022"])
def test_a_recorded_line_is_found_by_us_and_by_openssh(tmp_path: Path, name: str) -> None:
    host = known(tmp_path, known_line(name, "ssh-ed25519", KEY) + "\n", name)
    assert host.refusal("ssh-ed25519", KEY) is None
    told = subprocess.run(["ssh-keygen", "-l", "-F", name, "-f", host.files[0]], capture_output=True, check=True)
    assert fingerprint(KEY).encode() in told.stdout


def test_an_unknown_key_says_how_to_trust_it(tmp_path: Path) -> None:
    reason = known(tmp_path, "", inventory="my lab.yaml").refusal("ssh-ed25519", KEY)
    assert reason is not None
    assert fingerprint(KEY) in reason
    assert reason.endswith("deploy trust 'my lab.yaml'")


def test_a_changed_key_says_how_to_forget_it_and_the_command_works(tmp_path: Path) -> None:
    host = known(tmp_path, known_line("pi-a", "ssh-ed25519", OTHER) + "\n", inventory="lab.yaml")
    reason = host.refusal("ssh-ed25519", KEY)
    assert reason is not None
    assert reason.startswith("WARNING")
    assert all(text in reason for text in (fingerprint(KEY), fingerprint(OTHER), str(host.files[0])))
    (command,) = host.forget_commands()
    assert command in reason
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    assert entries_for(host.files[0], "pi-a") == ()


def test_a_revoked_key_is_refused_though_it_is_known(tmp_path: Path) -> None:
    line = known_line("pi-a", "ssh-ed25519", KEY)
    reason = known(tmp_path, f"{line}\n@revoked {line}\n").refusal("ssh-ed25519", KEY)
    assert reason is not None
    assert "revoked" in reason


@given(
    text=st.text(max_size=300)
    | st.lists(st.sampled_from(["pi-a", "@revoked", "ssh-ed25519", "|1|x|y", "!*", "\n", " ", "AAAA", "=", "[pi"])).map(
        "".join
    )
)
def test_no_file_is_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a file holds, an unknown key stays unknown: no line but a real one lets a host in."""
    path = tmp_path_factory.getbasetemp() / "known_hosts"
    path.write_text(text, encoding="utf-8", errors="replace")
    host = KnownHost("pi-a", (path,), "", entries_for(path, "pi-a"))
    assert host.refusal("ssh-ed25519", KEY)


def test_the_fingerprint_is_a_hash_of_the_key() -> None:
    digest = base64.b64encode(hashlib.sha256(KEY).digest()).decode().rstrip("=")
    assert fingerprint(KEY) == f"SHA256:{digest}"


@pytest.mark.parametrize(
    ("patterns", "fits"),
    [
        ("pi-a", True),
        ("PI-A", True),
        ("pi-b,pi-a,192.0.2.1", True),
        ("pi-a,pi-a", True),
        ("pi-?", True),
        ("*,!pi-b", True),
        ("*,!pi-a", False),
        ("pi-a,!pi-a", False),
        ("pi-ab", False),
        ("[pi-a]:2222", False),
        ("[pi-]a", False),
    ],
)
def test_names_match_as_for_openssh(tmp_path: Path, patterns: str, fits: bool) -> None:  # noqa: FBT001
    """Judged by ssh-keygen -F too, which prints what it finds."""
    host = known(tmp_path, known_line(patterns, "ssh-ed25519", KEY) + "\n")
    assert len(host.entries) == fits
    told = subprocess.run(["ssh-keygen", "-F", "pi-a", "-f", host.files[0]], capture_output=True, check=False)
    assert (told.returncode == 0) == fits
