"""TLS: a certificate and its key become one `ssl` context at the start, and connections shake hands under our limits.

asyncio's own way (`create_server(ssl=…)`) shows a connection to us only when its hands are shaken: until then nobody
counts it, and half-open ones could take every descriptor the journal needs.  So the connection is taken as plain TCP,
counted and given a deadline like any other, and goes on as TLS from there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import NoReturn, cast

import structlog

from .http_limits import ConnectionLimits, GuardedServer, network_of
from .secret_files import SecretFileError, read_secret

_SHUTDOWN_TIMEOUT_SECONDS = 5.0
"""For the peer to say goodbye, which it need not."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")


class TlsError(SecretFileError):
    """The certificate or its key can't be used."""


def load_tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS 1.2 and newer, with this certificate (its chain behind it) and key, both PEM.  None: no TLS.

    Raises TlsError: one without the other, unreadable, not PEM, encrypted, not fitting each other.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = ("--tls-key", "--tls-cert") if certificate is None else ("--tls-cert", "--tls-key")
        raise TlsError(f"{given} needs {missing} beside it; both can be the same file")
    shared = certificate.absolute() == key.absolute()
    if b"-----BEGIN CERTIFICATE-----" not in read_secret(certificate, "certificate", TlsError, public=not shared):
        raise TlsError(f"there is no certificate in {certificate}: PEM is expected, -----BEGIN CERTIFICATE-----")
    if b"PRIVATE KEY-----" not in read_secret(key, "TLS key", TlsError):
        raise TlsError(f"there is no key in {key}: PEM is expected, -----BEGIN PRIVATE KEY-----")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Asked for a password, OpenSSL would ask the terminal, and a process without one would wait for ever.
        context.load_cert_chain(certificate, key, password=lambda: _refuse_encrypted(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"the key in {key} is not that of the certificate in {certificate}") from error
        raise TlsError(
            f"cannot use the certificate {certificate} with the key {key}: {error.reason or 'one of them is damaged'}"
        ) from error
    return context


def _refuse_encrypted(key: Path) -> NoReturn:
    raise TlsError(
        f"the TLS key {key} is encrypted, and there is nobody to ask for its password: "
        f"`openssl pkey -in {key} -out FILE` writes it decrypted"
    )


class TlsDoor:
    """The protocol factory of a port with TLS: each connection shakes hands, and is one of `server` after that."""

    def __init__(self, server: GuardedServer, context: ssl.SSLContext, timeout_seconds: float) -> None:
        self.server = server
        self.context = context
        self.timeout_seconds = timeout_seconds

    def __call__(self) -> asyncio.Protocol:
        return _Handshake(self)


class _Handshake(asyncio.Protocol):
    """One connection until its hands are shaken; has a place among the server's connections for so long."""

    def __init__(self, door: TlsDoor) -> None:
        self._door = door
        self._address = ""
        self._has_place = False
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast("asyncio.Transport", transport)
        self._address = network_of(wire.get_extra_info("peername"))
        self._has_place = self._door.server.admit(self, self._address)
        if self._has_place:
            # `start_tls` would lose what arrives before it: uvloop reads as soon as we return. So this transport ends
            # here, before it has read a byte, and the connection goes on in another one.
            raw = socket.socket(fileno=os.dup(wire.get_extra_info("socket").fileno()))
            raw.setblocking(False)
            self._work = asyncio.get_running_loop().create_task(self._shake_hands(raw))
        else:
            self._door.server.forget(self, self._address, refused=True)  # to say why would take a handshake
        wire.abort()

    async def _shake_hands(self, raw: socket.socket) -> None:
        door = self._door
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Secured(self),
                raw,
                ssl=door.context,
                ssl_handshake_timeout=door.timeout_seconds,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_SECONDS,
            )
        except OSError as error:  # of ssl too, and a timeout
            reason = getattr(error, "reason", None) or type(error).__name__
            log.debug("connection_closed", reason="the TLS handshake failed", address=self._address, error=reason)
        finally:
            self._give_up_place()

    def secured(self, transport: asyncio.BaseTransport) -> None:
        """From here on it is a connection like any other."""
        self._give_up_place()
        connection = self._door.server()
        cast("asyncio.Transport", transport).set_protocol(connection)
        connection.connection_made(transport)

    def _give_up_place(self) -> None:
        if self._has_place:
            self._has_place = False
            self._door.server.forget(self, self._address, refused=False)

    # --- as one of the server's connections ---------------------------------------------------------------------------

    def check(self, now: float, limits: ConnectionLimits) -> None:
        """The handshake has a deadline of its own."""

    def dismiss(self) -> None:
        if self._work is not None:
            self._work.cancel()


class _Secured(asyncio.Protocol):
    """Takes the connection over when the handshake is done."""

    def __init__(self, handshake: _Handshake) -> None:
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handshake.secured(transport)
