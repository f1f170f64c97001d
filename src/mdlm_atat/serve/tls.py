"""A certificate and its key, as the server shows them: looked at before the model is loaded."""

from __future__ import annotations

import ipaddress
import ssl
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mdlm_atat.errors import UserError

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for
OF_ANOTHER = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED", "UNKNOWN_CERTIFICATE_TYPE")
"""Reasons of OpenSSL against a key that is one, of another certificate: the last two where it is of another kind."""
HOW_TO_MAKE = "docs/serve.md says how to make one"


@dataclass(frozen=True)
class Certificate:
    """What a server is known by."""

    context: ssl.SSLContext
    """To listen with."""
    names: tuple[str, ...]
    """The names that it is for, in small letters; those with a * are left out."""


def read_certificate(cert: Path | None, key: Path | None) -> Certificate | None:
    """Read a certificate (PEM, with those that vouch for it behind it) and its private key (PEM, without a password);
    None where neither is named.

    Warns of a certificate that does not hold today. Raises UserError where only one is named, for a file that cannot be
    read or holds something else, for a key with a password, and for one that is not the certificate's.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = ("tls_key", "tls_cert") if cert is None else ("tls_cert", "tls_key")
        raise UserError(
            f"`{given}={cert or key}` needs `{missing}=` too: a certificate and its private key go together, and one "
            "file that holds both is named twice"
        )
    for name, file in (("tls_cert", cert), ("tls_key", key)):
        _check_readable(name, file)
    trusting = _client_that_trusts(cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=lambda: _refuse_password(key))
    except ssl.SSLError as error:
        raise UserError(_why(error, cert, key)) from error
    found = _as_seen_by(trusting, context, cert)
    from_s, until_s = (ssl.cert_time_to_seconds(found[name]) for name in ("notBefore", "notAfter"))
    if not from_s <= time.time() <= until_s:
        warnings.warn(
            f"the certificate {cert} is for the time from {_day(from_s)} to {_day(until_s)}: browsers and programs "
            "refuse it today",
            stacklevel=2,
        )
    names = [
        str(ipaddress.ip_address(name)) if kind == "IP Address" else name.lower()
        for kind, name in found.get("subjectAltName", ())
        if kind in ("DNS", "IP Address") and "*" not in name
    ]
    return Certificate(context, tuple(names))


def _check_readable(name: str, file: Path) -> None:
    if not file.is_file():  # nor a pipe, which can be read once only
        what = "this is no file" if file.exists() else "there is no such file"
        raise UserError(f"`{name}={file}`: {what}; {HOW_TO_MAKE}")
    try:
        file.open("rb").close()
    except OSError as error:
        raise UserError(f"`{name}={file}`: cannot be read ({error.strerror})") from error


def _client_that_trusts(cert: Path) -> ssl.SSLContext:
    """A client's side that takes this certificate, and no other, at any time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    try:
        context.load_verify_locations(cert)
    except (ssl.SSLError, ValueError) as error:
        raise UserError(
            f"`tls_cert={cert}`: this is no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----; "
            f"{HOW_TO_MAKE}"
        ) from error
    return context


def _refuse_password(key: Path) -> str:
    """Called by OpenSSL for a key that is encrypted; without it, it would ask on the terminal."""
    raise UserError(
        f"`tls_key={key}`: this key has a password, which a server that starts by itself cannot type: write one "
        f"without by `openssl pkey -in {key} -out server.key`"
    )


def _why(error: ssl.SSLError, cert: Path, key: Path) -> str:
    if error.reason in OF_ANOTHER:
        return (
            f"`tls_key={key}`: this is not the key of the certificate in {cert}: name the one that it was made with "
            "(of several certificates in a file the server's own comes first)"
        )
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return f"`tls_cert={cert}`: too weak for TLS ({error.reason}); {HOW_TO_MAKE}"
    return (
        f"`tls_key={key}`: this is no private key in PEM, which begins with -----BEGIN PRIVATE KEY----- or the like; "
        f"{HOW_TO_MAKE}"
    )


def _as_seen_by(client: ssl.SSLContext, server: ssl.SSLContext, cert: Path) -> dict:
    """What a client that trusts the certificate reads in it, by a handshake in memory: `ssl` parses none otherwise."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    for turn in range(8):
        try:
            ends[turn % 2].do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason
            raise UserError(f"`tls_cert={cert}`: not for a server ({reason}); {HOW_TO_MAKE}") from error
    return dict(ends[0].getpeercert() or {})


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).date().isoformat()
