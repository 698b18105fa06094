"""PyTorch's CPU build, found where uv knows it to be: an index on loopback stands in for every host of the internet."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import ipaddress
import os
import ssl
import threading
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.app import embedded
from deploy.environment import Kit
from deploy.environment.prepare import sync_options
from deploy.environment.target import Target
from deploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def wheel(name: str, version: str, tag: str) -> tuple[str, bytes]:
    """Return the smallest wheel of a package, and its file name."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file), text)
    return f"{name}-{version}-{tag}.whl", data.getvalue()


@dataclass
class Index:
    """A proxy that is every host: it serves wheels below a folder of that name, and remembers what it was asked for."""

    place: Path
    folder: str
    wheels: dict[str, bytes]
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._signed("authority", None)

    @property
    def authority(self) -> Path:
        """The certificate to trust."""
        return self.place / "authority.pem"

    def answer(self, path: str) -> bytes | None:
        """Return what lies at a path."""
        name = unquote(path).rstrip("/").rpartition("/")[2]
        if self.folder not in path:
            return None
        if name in self.wheels:
            return self.wheels[name]
        links = [
            f'<a href="{quote(file)}#sha256={hashlib.sha256(data).hexdigest()}">{file}</a>\n'
            for file, data in self.wheels.items()
            if file.startswith(f"{name}-")
        ]
        return "".join(links).encode() or None

    def context(self, host: str) -> ssl.SSLContext:
        """Return what is needed to be a host."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._signed(host, "authority"))
        return context

    def _signed(self, host: str, by: str | None) -> Path:
        place = self.place / f"{host}.pem"
        subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, it)]) for it in (host, by or host))
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(issuer, subject, self._key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        place.write_bytes(
            self._key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return place


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@contextlib.contextmanager
def serving(index: Index) -> Iterator[str]:
    """Serve an index, and give the address for HTTPS_PROXY."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            context = index.context(self.path.rpartition(":")[0])
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb")
            self.close_connection = False

        def do_GET(self) -> None:
            index.asked.append(self.path)
            found = index.answer(self.path)
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(found or b"")
            self.wfile.flush()

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()
            self.connection.close()

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


PI = Target("Linux", "aarch64", "3.11")
PC = Target("Linux", "x86_64", "3.11")
CPU = "2.99.0+cpu"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Be the internet for uv and pip; nothing of this user's configuration of them counts."""
    place = tmp_path / "index"
    place.mkdir()
    tags = [f"cp311-cp311-manylinux_2_28_{machine}" for machine in ("x86_64", "aarch64")]
    index = Index(place, "/cpu/", dict(wheel("torch", CPU, tag) for tag in tags))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_")) and name != "PIP_CONFIG_FILE"]:
        monkeypatch.delenv(name)
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(index.authority))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    with serving(index) as address:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        yield index


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(embedded("flclient.apps.payload"), root=tmp_path / "cache")
    kit.requirements = ("torch>=2.4",)
    return kit


@pytest.mark.parametrize("target", [PI, PC], ids=str)
def test_the_cpu_build_is_locked_and_downloaded_for_linux(index: Index, kit: Kit, target: Target) -> None:
    """PyPI's PyTorch for Linux brings CUDA on either machine: the lock has the CPU build, and pip fetches it."""
    lock = kit.lock(target, cpu_torch=True)
    assert lock.versions == {"torch": CPU}
    assert lock.torch_index is not None
    assert "/cpu" in lock.torch_index
    assert "#" not in lock.text
    assert sync_options(lock, []) == ["--torch-backend", "cpu"]
    (file,) = kit.wheels(lock)
    assert file.name == f"torch-{CPU}-cp311-cp311-manylinux_2_28_{target.machine}.whl"
    assert file.path.read_bytes() == index.wheels[file.name]


def test_without_being_asked_there_is_no_other_index(index: Index, kit: Kit) -> None:
    """The default is what the index of all else has; here, nothing: the error says what was looked for."""
    with pytest.raises(DeployError, match=r"(?s)finding packages for Linux aarch64, Python 3.11 failed.*torch"):
        kit.lock(PI)
    assert index.asked
    assert not [path for path in index.asked if "/cpu/" in path]
