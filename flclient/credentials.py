"""The client's end of mutual TLS: its credentials for gRPC, and why a connection could not be made, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from flcommon.credentials import out_of_date, private_key

if TYPE_CHECKING:
    from flcommon.job import Tls

_SERVER_REFUSED = (
    ("certificate has expired", "the server's certificate has expired by this host's clock, which may be wrong"),
    ("certificate is not yet valid", "the server's certificate is not valid yet by this host's clock: set it"),
    ("unsupported certificate purpose", "what answers there has a client's certificate, and is not the server"),
    ("Hostname Verification Check failed", "the server's certificate is not for {name}, where it should be"),
    ("is not in peer certificate", "the server's certificate is not for {name}, where it should be"),
    ("WRONG_VERSION_NUMBER", "what answers there does not speak TLS: it is not this campaign's server"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not of this campaign"),
    ("BAD_SIGNATURE", "the server's certificate is not of this campaign"),
    ("SSL_ERROR_SSL", "the TLS handshake with the server failed ({details})"),
)
"""What gRPC's details hold, in words of BoringSSL and of gRPC 1.64 to 1.85, and what it means: the first that fits."""
_CLOSED = ("Socket closed", "Connection reset", "Handshake read failed")


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Return credentials that trust this campaign's authority and nobody else; raises StepError for a bad key."""
    return grpc.ssl_channel_credentials(tls.authority.encode(), private_key(tls), tls.certificate.encode())


def channel_options(tls: Tls) -> tuple[tuple[str, str], ...]:
    """Return the channel's options: the server is who it was said to be, also if a relay's address is dialled."""
    return (("grpc.ssl_target_name_override", tls.server_name),)


def why_refused(details: str, tls: Tls | None) -> str | None:
    """Say why a connection that failed was not made, from gRPC's `details`; None if it is not a matter of trust.

    A server never says why it refuses a client: in TLS 1.3 the client is through by then, and gRPC just hangs up.
    """
    if tls is None:
        return "the server closed the connection at once: it may want TLS" if "Socket closed" in details else None
    for token, meaning in _SERVER_REFUSED:
        if token in details:
            return meaning.format(name=tls.server_name, details=details)
    if not any(token in details for token in _CLOSED):
        return None
    if (wrong := out_of_date(tls.certificate)) is not None:
        return f"the server closed the connection, and this host's certificate {wrong}: start the campaign again"
    return (
        "the server closed the connection at once: it is ending, or refuses this host's certificate (its log says so)"
    )
