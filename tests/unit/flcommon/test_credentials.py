"""A host's private key and its certificate request: made once, kept safe, and never lost to a second caller."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from deploy.authority import Authority
from flcommon.commands import main
from flcommon.credentials import certificate_request, out_of_date, private_key
from flcommon.errors import StepError
from flcommon.job import Tls

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "work" / "keys"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tls(keys: Path, request: str) -> Tls:
    authority = Authority("c1")
    return Tls(
        key=str(keys / "host.key"),
        certificate=authority.sign("pi-a", request),
        authority=authority.certificate,
        server_name="192.0.2.1",
    )


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_only_its_owner_can_read_a_key(keys, mask):
    """Whatever the umask: the key is 0600, its directory 0700, and nothing else is left there but the request."""
    before = os.umask(mask)
    try:
        keys.parent.mkdir(0o700)
        keys.parent.chmod(0o700)
        certificate_request(keys)
    finally:
        os.umask(before)
    assert (mode(keys), mode(keys / "host.key")) == (0o700, 0o600)
    assert {path.name for path in keys.iterdir()} == {"host.key", "host.csr", ".lock"}


def test_a_request_is_signed_by_the_key_and_names_nobody(keys):
    """Which host this is, the inventory says; that the host has the key, the request proves."""
    request = x509.load_pem_x509_csr(certificate_request(keys).encode())
    key = load_pem_private_key((keys / "host.key").read_bytes(), None)
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert isinstance(key.curve, ec.SECP256R1)
    assert list(request.subject) == []


def test_a_key_is_made_once(keys):
    """The second time nothing changes, not even a file's date."""
    first = certificate_request(keys)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in keys.glob("host.*")}
    assert certificate_request(keys) == first
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in keys.glob("host.*")} == before


@pytest.mark.parametrize(("name", "wrong", "right"), [("", 0o755, 0o700), ("host.key", 0o644, 0o600), ("", 0, 0o700)])
def test_wrong_modes_are_repaired(keys, name, wrong, right):
    """A key that others could read is theirs no longer; the key itself stays."""
    request = certificate_request(keys)
    (keys / name).chmod(wrong)
    assert certificate_request(keys) == request
    assert mode(keys / name) == right


@pytest.mark.parametrize("spoilt", [None, b"", b"no request", "another's"])
def test_a_request_that_does_not_fit_is_made_anew(keys, tmp_path, spoilt):
    """A crash between key and request, or half a copy of a directory, leaves nothing that cannot be repaired."""
    certificate_request(keys)
    key = (keys / "host.key").read_bytes()
    if spoilt is None:
        (keys / "host.csr").unlink()
    else:
        other = certificate_request(tmp_path / "other").encode()
        (keys / "host.csr").write_bytes(other if isinstance(spoilt, str) else spoilt)
    request = x509.load_pem_x509_csr(certificate_request(keys).encode())
    assert request.public_key() == load_pem_private_key(key, None).public_key()
    assert (keys / "host.key").read_bytes() == key


def ed25519_key() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"somebody's notes", ed25519_key()], ids=["empty", "text", "ed25519"])
def test_a_key_that_is_none_of_ours_is_never_overwritten(keys, content, capsys):
    """The error says which file, and what to do; the file stays as it is."""
    keys.mkdir(parents=True)
    (keys / "host.key").write_bytes(content)
    with pytest.raises(SystemExit, match=rf"^{keys}/host\.key is not a private key for P-256: delete it"):
        main(["request", str(keys)])
    assert (keys / "host.key").read_bytes() == content
    assert capsys.readouterr().out == ""


def test_a_link_is_not_followed(keys, tmp_path, capsys):
    """A key elsewhere is not ours to read, nor to restrict: one line names the file."""
    certificate_request(tmp_path / "other")
    (tmp_path / "other" / "host.key").chmod(0o640)
    keys.mkdir(parents=True)
    (keys / "host.key").symlink_to(tmp_path / "other" / "host.key")
    assert main(["request", str(keys)]) == 1
    assert capsys.readouterr().err.startswith(f"{keys}/host.key: ")
    assert mode(tmp_path / "other" / "host.key") == 0o640


def test_two_at_once_get_the_same(keys):
    """Eight processes that find no key at the same moment make one, and all print its request."""
    argv = [sys.executable, "-m", "flcommon.commands", "request", str(keys)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def ask(_: int) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True, env=environment).stdout

    with ThreadPoolExecutor(8) as pool:
        told = set(pool.map(ask, range(8)))
    assert told == {(keys / "host.csr").read_text()}
    assert x509.load_pem_x509_csr(told.pop().encode()).is_signature_valid


def test_a_process_reads_its_own_key(keys):
    """As it is in the file."""
    own = tls(keys, certificate_request(keys))
    assert private_key(own) == (keys / "host.key").read_bytes()


def test_a_key_that_does_not_go_with_the_certificate_ends_the_process(keys):
    """Missing, broken, or made anew since `up`: one sentence with the file's name, and nothing of what is in it."""
    own = tls(keys, certificate_request(keys))
    key = keys / "host.key"
    for change, what in (
        (lambda: (key.unlink(), certificate_request(keys)), "is another than this campaign's certificate was made for"),
        (lambda: key.write_text("not a key"), "is not a private key"),
        (key.unlink, r"cannot be read \(No such file or directory\)"),
    ):
        change()
        with pytest.raises(StepError, match=rf"^tls: .*{key} {what}.*deploy up") as caught:
            private_key(own)
        assert "\n" not in str(caught.value)


def test_a_certificate_has_its_time(keys):
    """Before and after it, the sentence says when it is good; in between there is nothing to say."""
    request = certificate_request(keys)
    authority = Authority("c1")
    assert out_of_date(authority.sign("pi-a", request)) is None
    since, until = authority._valid
    long = 400 * (until - since)
    authority._valid = since - long, until - long
    assert out_of_date(authority.sign("pi-a", request)) == f"was valid until {until - long:%Y-%m-%d %H:%M} UTC"
    authority._valid = since + long, until + long
    assert out_of_date(authority.sign("pi-a", request)) == f"is valid from {since + long:%Y-%m-%d %H:%M} UTC on"
