"""A campaign's certificate authority: what it signs, for whom, for how long, and what it refuses."""

from __future__ import annotations

import base64
import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from deploy.authority import Authority, credentials, request_of, server_name, sharing_a_key, understood
from deploy.errors import CommandFailed, HostError
from deploy.facts import look
from deploy.inventory import Host, Python, Ssh
from deploy.remote.fake import FakeRemote
from flcommon.credentials import certificate_request

CODE = str(Path(__file__).parents[3])


@pytest.fixture(scope="module")
def request_a(tmp_path_factory) -> str:
    return certificate_request(tmp_path_factory.mktemp("a"))


@pytest.fixture(scope="module")
def request_b(tmp_path_factory) -> str:
    return certificate_request(tmp_path_factory.mktemp("b"))


def host(name: str, role: Any = "client") -> Host:
    return Host(name=name, role=role, host="192.0.2.1", ssh=Ssh(), python=Python(), workdir="~/.fieldlab")


def read(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def extension(certificate: x509.Certificate, kind: Any) -> Any:
    return certificate.extensions.get_extension_for_class(kind).value


def signed_by(key: Any) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


# --- certificates ----------------------------------------------------------------------------------------------------


def test_a_servers_certificate_is_for_its_address_and_for_serving_only(request_a):
    """An independent verifier accepts it for that address under this authority, and for no other address."""
    authority = Authority("c1")
    certificate = read(authority.sign("hub", request_a, "192.0.2.10"))
    builder = PolicyBuilder().store(Store([read(authority.certificate)])).time(datetime.now(UTC))
    good, other = (
        builder.build_server_verifier(x509.IPAddress(ipaddress.ip_address(one))) for one in ("192.0.2.10", "192.0.2.11")
    )
    assert good.verify(certificate, []) == [certificate, read(authority.certificate)]
    with pytest.raises(x509.verification.VerificationError):
        other.verify(certificate, [])
    assert list(extension(certificate, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert certificate.subject.rfc4514_string() == "CN=hub"


def test_a_clients_certificate_names_campaign_and_host_and_serves_nothing(request_a):
    """An independent verifier accepts it as a client's, and tells whose it is."""
    authority = Authority("20261125T120000Z-0a1b2c")
    certificate = read(authority.sign("pi4-a.lab_1", request_a))
    store = Store([read(authority.certificate)])
    verified = PolicyBuilder().store(store).time(datetime.now(UTC)).build_client_verifier().verify(certificate, [])
    assert [name.value for name in verified.subjects] == ["fieldlab://20261125T120000Z-0a1b2c/pi4-a.lab_1"]
    assert list(extension(certificate, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.subject.rfc4514_string() == "CN=pi4-a.lab_1"


def test_a_host_cannot_sign_for_others(request_a):
    """Only the authority is one: for one step, and with a key for nothing else."""
    authority = Authority("c1")
    for pem, is_authority in ((authority.certificate, True), (authority.sign("pi-a", request_a), False)):
        constraints, usage = (extension(read(pem), kind) for kind in (x509.BasicConstraints, x509.KeyUsage))
        assert (constraints.ca, usage.key_cert_sign, usage.digital_signature) == (
            is_authority, is_authority, not is_authority,
        )  # fmt: skip
    assert extension(read(authority.certificate), x509.BasicConstraints).path_length == 0


def test_a_certificate_of_another_campaign_is_worth_nothing(request_a):
    """Also of one with the same name: the key makes the authority."""
    first, second = Authority("c1"), Authority("c1")
    certificate = read(first.sign("pi-a", request_a))
    verifier = PolicyBuilder().store(Store([read(second.certificate)])).time(datetime.now(UTC)).build_client_verifier()
    with pytest.raises(x509.verification.VerificationError):
        verifier.verify(certificate, [])
    assert first.certificate != second.certificate


def test_no_two_serial_numbers_are_the_same(request_a):
    """And each is long enough not to be guessed."""
    authority = Authority("c1")
    serials = [read(pem).serial_number for pem in (authority.sign("pi-a", request_a) for _ in range(20))]
    assert len({*serials, read(authority.certificate).serial_number}) == 21
    assert max(serials).bit_length() > 128


def test_the_authoritys_key_is_nowhere(request_a, tmp_path, monkeypatch):
    """Signing writes no file, and what is printed of an authority does not show it."""
    monkeypatch.chdir(tmp_path)
    authority = Authority("c1")
    authority.sign("pi-a", request_a)
    assert list(tmp_path.iterdir()) == []
    assert "PRIVATE" not in f"{authority!r}{authority.certificate}"


# --- time ------------------------------------------------------------------------------------------------------------


def test_certificates_last_two_weeks(request_a):
    """From a day ago, for clocks that are behind."""
    certificate, now = read(Authority("c1").sign("pi-a", request_a)), datetime.now(UTC)
    assert abs(now - certificate.not_valid_before_utc - timedelta(days=1)) < timedelta(minutes=1)
    assert abs(certificate.not_valid_after_utc - now - timedelta(days=14)) < timedelta(minutes=1)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_every_hosts_clock_finds_the_certificate_valid(clocks_ns: list[int]) -> None:
    """A host may be decades behind or ahead (no clock chip, no network time), or tell nonsense: that is no error."""
    since, until = Authority("c1", clocks_ns)._valid
    assert since <= datetime.now(UTC) <= until
    for wall_ns in clocks_ns:
        if 0 <= wall_ns <= 4e18:  # 2096
            moment = datetime.fromtimestamp(wall_ns / 1e9, UTC)
            assert since <= max(moment, datetime(1970, 1, 2, tzinfo=UTC)) <= until


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_that_was_changed_on_its_way_is_refused(request_a, request_b):
    """The signature must be the key's own: another's key, or another's signature, is nobody's."""
    good, other = (x509.load_pem_x509_csr(one.encode()).public_bytes(Encoding.DER) for one in (request_a, request_b))
    key_of = x509.load_pem_x509_csr(request_b.encode()).public_key().public_numbers()
    mine = x509.load_pem_x509_csr(request_a.encode()).public_key().public_numbers()
    swapped = good.replace(mine.x.to_bytes(32), key_of.x.to_bytes(32)).replace(
        mine.y.to_bytes(32), key_of.y.to_bytes(32)
    )
    assert swapped not in (good, other)
    tampered = x509.load_der_x509_csr(swapped).public_bytes(Encoding.PEM).decode()
    with pytest.raises(HostError, match=r"^pi-a: keys: the host's certificate request is not signed by its own key"):
        Authority("c1").sign("pi-a", tampered)


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["ed25519", "P-384", "RSA"],
)
def test_other_kinds_of_keys_are_refused(key):
    """Because gRPC refuses Ed25519, and a host has no reason to have any other than ours."""
    with pytest.raises(
        HostError, match=r"^pi-a: keys: the host's certificate request is not signed by its own key, for P"
    ):
        Authority("c1").sign("pi-a", signed_by(key))


@given(st.text() | st.binary().map(lambda data: f"-----BEGIN CERTIFICATE REQUEST-----\n{data.hex()}\n"))
def test_what_a_host_says_is_a_request_or_an_error_of_that_host(told: str) -> None:
    """Never a traceback."""
    with pytest.raises(
        HostError, match=r"^pi-a: keys: the host's certificate request cannot be read: delete keys/host"
    ):
        understood("pi-a", told)


@given(st.data())
def test_a_flipped_bit_is_found(data: st.DataObject) -> None:
    """Wherever it is: nothing is signed that the key's owner has not signed as it is."""
    der = bytearray(x509.load_pem_x509_csr(REQUEST.encode()).public_bytes(Encoding.DER))
    position = data.draw(st.integers(0, 8 * len(der) - 1))
    der[position // 8] ^= 1 << position % 8
    body = base64.encodebytes(bytes(der)).decode()
    with pytest.raises(HostError):
        understood("pi-a", f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n")


REQUEST = signed_by(ec.generate_private_key(ec.SECP256R1()))


# --- what the life cycle asks for ------------------------------------------------------------------------------------


def test_a_host_with_a_request_is_asked_nothing(facts, request_a):
    """The look has brought it."""
    remote = FakeRemote("pi-a")
    assert request_of(remote, facts(csr=request_a), "/code") == request_a
    assert remote.calls == []


def test_the_next_look_finds_what_a_host_has_made(here, own_facts):
    """On a real host: the first time it is asked, from then on the look tells; not after its key lies open."""
    entry = msgspec.structs.replace(host("here"), python=Python(path=own_facts.python), workdir=own_facts.workdir)
    assert look(entry, here).csr == ""
    request = request_of(here, own_facts, CODE)
    assert look(entry, here).csr == request
    for path, wrong, right in (("keys", 0o750, 0o700), ("keys/host.key", 0o640, 0o600)):
        place = Path(own_facts.workdir, path)
        place.chmod(wrong)
        assert look(entry, here).csr == ""
        assert request_of(here, own_facts, CODE) == request
        assert place.stat().st_mode & 0o777 == right
    Path(own_facts.workdir, "keys/host.key").unlink()
    assert look(entry, here).csr == ""
    assert request_of(here, own_facts, CODE) != request, "a request without its key is of no use"


def test_a_request_that_is_spoilt_is_made_anew(here, own_facts):
    """The host repairs it when asked, and it is asked because the look's does not do."""
    first = understood("here", request_of(here, own_facts, CODE))
    Path(own_facts.workdir, "keys/host.csr").write_text("spoilt")
    again = understood("here", request_of(here, msgspec.structs.replace(own_facts, csr="spoilt"), CODE))
    assert again.public_key() == first.public_key()


def test_a_host_that_cannot_make_a_key_says_why_in_one_line(here, own_facts):
    """Not as a command with its output."""
    Path(own_facts.workdir).mkdir()
    Path(own_facts.workdir, "keys").write_text("in the way")
    with pytest.raises(HostError, match=rf"^here: keys: {own_facts.workdir}/keys: File exists$") as caught:
        request_of(here, own_facts, CODE)
    assert not isinstance(caught.value, CommandFailed)


def test_every_host_gets_what_it_needs_and_no_more(facts, request_a, request_b):
    """The server a certificate for its address, a client one of its name; both the path of a key, and no key."""
    hosts = [host("hub", "server"), host("pi-a")]
    told = credentials("c1", "hub.local:8080", hosts, {"hub": facts(csr=request_a), "pi-a": facts(csr=request_b)})
    assert {name: (one.key, one.server_name) for name, one in told.items()} == dict.fromkeys(
        ("hub", "pi-a"), ("/home/pi/.fieldlab/keys/host.key", "hub.local")
    )
    assert told["hub"].authority == told["pi-a"].authority
    names = extension(read(told["hub"].certificate), x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["hub.local"]
    assert "PRIVATE" not in msgspec.json.encode(told).decode()


def test_hosts_with_one_key_are_told(facts, request_a, request_b):
    """As cloned SD cards have it."""
    hosts = [host(name) for name in ("pi-a", "pi-b", "pc")]
    known = {"pi-a": facts(csr=request_a), "pi-b": facts(csr=request_a), "pc": facts(csr=request_b)}
    assert sharing_a_key(hosts, known) == [["pi-a", "pi-b"]]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.10:8080", "192.0.2.10"),
        ("hub.local:0", "hub.local"),
        ("hub.local.:0", "hub.local"),
        ("[2001:DB8:0:0::1]:8080", "2001:db8::1"),
        ("[::FFFF:192.0.2.1]:1", "::ffff:192.0.2.1"),
        ("[fe80::1%eth0]:8080", "fe80::1"),
        ("my_pi:8080", "my_pi"),
    ],
)
def test_a_server_is_named_as_grpc_compares_names(address, name, request_a):
    """Without port, brackets, scope and final dot, an address in the one form that inet_ntop(3) writes."""
    assert server_name(address) == name
    Authority("c1").sign("hub", request_a, name)


@given(st.ip_addresses())
def test_any_address_can_be_certified(address: Any) -> None:
    """And is found in the certificate as the address that it is."""
    name = server_name(f"[{address.exploded}]:80" if address.version == 6 else f"{address}:80")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    assert name == socket.inet_ntop(family, address.packed)
    certificate = read(Authority("c1").sign("hub", REQUEST, name))
    names = extension(certificate, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.IPAddress) == [address]
