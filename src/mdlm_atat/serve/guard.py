"""Who may use the server, and what a browser may do with what it answers."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web

from mdlm_atat.serve.mistakes import RequestError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "atat",
}
"""Of every answer."""


class Guard:
    """Refuses requests that come from another site's page, and those without the token where there is one.

    A page of any site can send requests to this machine. It cannot choose their Host header, which names the site,
    or what this machine is called if the site's name was made to lead here; nor the Origin header.
    """

    def __init__(self, host: str, token: str | None, allowed_hosts: Iterable[str] = ()) -> None:
        """`host`: the address that the server listens at. `token`: what every request but for the page itself must
        bring as `Authorization: Bearer TOKEN`; None: nothing. `allowed_hosts`: further names that it is reached by."""
        self._is_local = is_loopback(host)
        self._token = None if token is None else token.encode()
        allowed_hosts = tuple(allowed_hosts)
        names = {host, *LOOPBACK, *allowed_hosts}
        if not self._is_local:
            names |= {socket.gethostname(), f"{socket.gethostname()}.local"}
        self._hosts = {name.lower().strip("[]") for name in names}
        self._proxied = {name.lower().strip("[]") for name in allowed_hosts}

    def check(self, request: web.Request, *, is_page: bool) -> None:
        """Raise RequestError for a request that is not allowed."""
        hosts = request.headers.getall("Host", [])
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._hosts or (not self._is_local and is_address(name))):
            raise RequestError(
                f"this server is not reached by the name {name or 'that was given'}; start it with --allow_host NAME "
                "if it is to be",
                status=403,
            )
        origin = request.headers.get("Origin")
        schemes = {request.scheme, "https"} if name in self._proxied else {request.scheme}  # a proxy has encrypted it
        if origin is not None and origin.lower() not in {f"{scheme}://{hosts[0].lower()}" for scheme in schemes}:
            raise RequestError("requests from the pages of other sites are not answered", status=403)
        if request.method != "GET" and request.headers.get("Sec-Fetch-Site", "same-origin") not in (
            "same-origin",
            "none",
        ):
            raise RequestError("requests from the pages of other sites are not answered", status=403)
        if not is_page and self._token is not None:
            kind, _, given = request.headers.get("Authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(
                given.strip().encode(errors="surrogateescape"), self._token
            ):
                raise RequestError("the token is missing or wrong: send `Authorization: Bearer TOKEN`", status=401)


def new_token() -> str:
    return secrets.token_urlsafe(24)


def host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None for what is no host."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname


def is_address(name: str) -> bool:
    """Whether a host is a number, which no other site's name can be made to lead to."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host in LOOPBACK or (is_address(host) and ipaddress.ip_address(host).is_loopback)
