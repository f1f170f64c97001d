"""A server from its start to its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

from aiohttp import web

from mdlm_atat.errors import UserError
from mdlm_atat.serve.app import Server
from mdlm_atat.serve.guard import Guard, is_loopback
from mdlm_atat.serve.service import Service
from mdlm_atat.serve.tls import Certificate
from mdlm_atat.serve.worker import Worker
from mdlm_atat.signals import ending_signals

PORT = 8017
NUM_PORTS = 100  # that are tried where none is named
END_TIMEOUT_S = 5.0


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens at a port, or at the first free one from PORT on. Raises UserError for a port that is taken
    or not allowed, and for a host that this machine does not have."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in range(PORT, PORT + NUM_PORTS) if port is None else (port,):
        try:
            return socket.create_server((host, wanted), family=family, backlog=256)
        except PermissionError as error:
            raise UserError(f"port {wanted} is not allowed here: choose one from 1024, or leave out `port=`") from error
        except OSError as error:
            if any(isinstance(each, socket.gaierror) for each in (error, error.__context__)):
                raise UserError(f"there is no host {host}: leave out `host=` for this machine alone") from error
            if not is_taken(error):
                why = os.strerror(error.errno or 0)
                raise UserError(f"cannot listen at {host}: {why}; leave out `host=` for this machine alone") from error
            if port is not None:
                raise UserError(f"port {port} is taken: choose another, or leave out `port=` for a free one") from error
    raise UserError(f"ports {PORT} to {PORT + NUM_PORTS - 1} are all taken: choose another by `port=`")


def is_taken(error: OSError) -> bool:
    return error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE), errno.EACCES)


def address(sock: socket.socket, token: str | None = None, certificate: Certificate | None = None) -> str:
    """The address of the page, by a name that the certificate is for, if there is one. A token is behind #, where no
    server sees it and no log keeps it."""
    host, port = sock.getsockname()[:2]
    names = () if certificate is None else certificate.names
    reached_by = (host,)
    if host in ("0.0.0.0", "::"):
        reached_by = (socket.gethostname(), *(name for name in names if not is_loopback(name)))
    elif is_loopback(host):
        reached_by = (host, "localhost")
    host = next((name for name in reached_by if name.lower() in names), reached_by[0])
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if certificate is None else "https"
    return f"{scheme}://{host}:{port}/" + (f"#token={quote(token, safe='')}" if token else "")


def run(
    service: Service,
    sock: socket.socket,
    guard: Guard,
    *,
    tls: ssl.SSLContext | None = None,
    log_texts: bool = False,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal asks for the end. `tls`: encrypt every connection by it. `on_start` is called when requests
    are answered."""
    worker = Worker(service.lm, service.limits, [] if service.classifier is None else [service.classifier.lm])
    server = Server(service, worker, guard, log_texts=log_texts)
    with suppress(KeyboardInterrupt):  # where signals cannot be handled in the loop
        asyncio.run(serving(server.app(), sock, on_start, tls))


async def serving(
    app: web.Application, sock: socket.socket, on_start: Callable[[], None], tls: ssl.SSLContext | None = None
) -> None:
    """Serve until a signal asks for the end, or the task is cancelled."""
    stop = asyncio.Event()
    for number in ending_signals():
        with suppress(NotImplementedError, ValueError, RuntimeError):  # Windows; not the main thread
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    silent = logging.Logger("atat")  # its messages would hold what was sent
    silent.addHandler(logging.NullHandler())
    runner = web.AppRunner(
        app, access_log=None, logger=silent, handler_cancellation=True, shutdown_timeout=END_TIMEOUT_S
    )
    await runner.setup()
    try:
        await web.SockSite(runner, sock, ssl_context=tls).start()
        on_start()
        await stop.wait()
    finally:
        await runner.cleanup()


def open_browser(url: str) -> None:
    webbrowser.open(url)
