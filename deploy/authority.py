"""A campaign's certificate authority: lives in memory while `deploy up` starts the campaign, and signs once per host.

Its private key is never written anywhere, so nobody can sign for this campaign later, and what was signed for it is
worth nothing in another. It sees no private key of a host: those stay where they were made (`flcommon.credentials`).
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.errors import CommandFailed, HostError
from deploy.worker import command
from flcommon.job import Tls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deploy.facts import Facts
    from deploy.inventory import Host
    from deploy.remote.protocol import Remote

    Role = Literal["server", "client"]

STEP = "keys"
EARLIER, VALID = timedelta(days=1), timedelta(days=14)
_OLDEST, _NEWEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2199, 1, 1, tzinfo=UTC)
_USAGE: Mapping[Role, x509.ObjectIdentifier] = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


class Authority:
    """The authority of one campaign, for hosts whose clocks show about these times, in ns since 1970.

    A certificate is good from a day before the earliest of them, and of this machine's, until 14 days after the latest:
    a Raspberry Pi without a clock chip or network time must be able to take part, and dates protect nothing here.
    """

    def __init__(self, campaign: str, clocks_ns: Iterable[int] = ()) -> None:
        clocks = [datetime.now(UTC), *(_moment(wall_ns) for wall_ns in clocks_ns)]
        self._campaign = campaign
        self._valid = max(min(clocks) - EARLIER, _OLDEST), max(clocks) + VALID
        self._key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: a certificate of another campaign is then of an unknown authority, and not a bad signature.
        self._name = _named(f"fieldlab campaign {campaign}")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key.public_key(), constraints, _key_usage(signs_certificates=True))
        self.certificate = _pem(builder.sign(self._key, hashes.SHA256()))
        """What server and clients trust, and nothing else, as PEM."""

    def sign(self, host: str, request: str, server_name: str | None = None) -> str:
        """Return a host's certificate as PEM: a server's for this name or address, or a client's if there is none.

        A server's is not good for a client, nor the other way round. Raises HostError for a request that is not sound.
        """
        asked = understood(host, request)
        usage = _USAGE["client" if server_name is None else "server"]
        names = _client_uri(self._campaign, host) if server_name is None else _general_name(server_name)
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        builder = self._builder(_named(host), _public_key(asked), constraints, _key_usage(signs_certificates=False))
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([names]), critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256()))

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        constraints: x509.BasicConstraints,
        usage: x509.KeyUsage,
    ) -> x509.CertificateBuilder:
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._valid[0])
            .not_valid_after(self._valid[1])
            .add_extension(constraints, critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(own, critical=False)
        )


def credentials(
    campaign: str, server_address: str, hosts: Sequence[Host], facts: Mapping[str, Facts]
) -> dict[str, Tls]:
    """Return what each host's process gets of mutual TLS, from an authority that is forgotten; raises HostError."""
    authority = Authority(campaign, [facts[host.name].wall_ns for host in hosts])
    name = server_name(server_address)
    return {
        host.name: Tls(
            key=f"{keys_directory(facts[host.name])}/host.key",
            certificate=authority.sign(host.name, facts[host.name].csr, name if host.role == "server" else None),
            authority=authority.certificate,
            server_name=name,
        )
        for host in hosts
    }


def request_of(remote: Remote, facts: Facts, code: str) -> str:
    """Return a host's certificate request, as the look found it or from the host; raises HostError.

    Only a host that has none, or whose key is not as it should be, is asked: it then makes what is missing.
    """
    with suppress(HostError):
        understood(remote.host, facts.csr)
        return facts.csr
    try:
        request = remote.run(command(facts, code, "request", keys_directory(facts)), step=STEP)
    except CommandFailed as error:
        last = error.output.strip().splitlines()[-1:] or [f"exit status {error.status}"]
        raise HostError(remote.host, STEP, last[0]) from error
    understood(remote.host, request)
    return request


def understood(host: str, request: str) -> x509.CertificateSigningRequest:
    """Return a certificate request (PEM) that is signed by its own P-256 key; raises HostError for any other."""
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        key = asked.public_key()
        sound = asked.is_signature_valid and isinstance(key, ec.EllipticCurvePublicKey)
        if sound and isinstance(_public_key(asked).curve, ec.SECP256R1):
            return asked
        why = "is not signed by its own key, for P-256"
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        why = "cannot be read"
    raise HostError(host, STEP, f"the host's certificate request {why}: delete keys/host.csr in its work directory")


def sharing_a_key(hosts: Sequence[Host], facts: Mapping[str, Facts]) -> list[list[str]]:
    """Return the names of hosts that have one private key in common, as two SD cards made from one image may have."""
    having: dict[object, list[str]] = {}
    for host in hosts:
        numbers = _public_key(understood(host.name, facts[host.name].csr)).public_numbers()
        having.setdefault((numbers.x, numbers.y), []).append(host.name)
    return [names for names in having.values() if len(names) > 1]


def server_name(server_address: str) -> str:
    """Return what the server's certificate is for, of `address:port`: without port, brackets, scope or last dot.

    An IPv6 address is written as inet_ntop(3) does: gRPC compares texts.
    """
    host = server_address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".")
    return socket.inet_ntop(socket.AF_INET6 if address.version == 6 else socket.AF_INET, address.packed)  # noqa: PLR2004


def keys_directory(facts: Facts) -> str:
    """Return where a host keeps its private key."""
    return f"{facts.workdir}/keys"


def _public_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError(type(key).__name__)
    return key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _client_uri(campaign: str, host: str) -> x509.GeneralName:
    """Return how a client's certificate names it; `flserver.credentials` reads it."""
    return x509.UniformResourceIdentifier(f"fieldlab://{campaign}/{host}")


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(wall_ns: int) -> datetime:
    """Return a host's idea of the time; what no clock shows becomes the nearest that a certificate can hold."""
    try:
        return min(max(datetime.fromtimestamp(wall_ns / 1e9, UTC), _OLDEST), _NEWEST)
    except (ValueError, OverflowError, OSError):
        return _NEWEST if wall_ns > 0 else _OLDEST


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
