"""The way of a command to a running process: one HTTP request, its answer, and what went wrong as one line.

    1   it was refused, or not confirmed
    2   the command line, an address or a token file can't be used: nothing was asked
    3   the answer was cut off: too long, too large
    4   nobody answers, or the answer of what only reads was lost: nothing was changed
    5   without the right token
    6   there is no such thing
    7   the handler ended in an error
    8   the state of an object was changed meanwhile, or a handler is at work on it: nothing was done
    9   the answer was lost, or did not come in time: what was asked may have happened

Certificates of an authority of one's own are found by OpenSSL's SSL_CERT_FILE.  A redirect is not followed: it would
take the token to somebody else.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, cast
from urllib.parse import urlsplit

from .exits import CUT_OFF, USAGE, StartRefused

REFUSED: Final = 1
UNREACHABLE: Final = 4
UNAUTHORIZED: Final = 5
UNKNOWN: Final = 6
HANDLER_FAILED: Final = 7
CONFLICT: Final = 8
OUTCOME_UNKNOWN: Final = 9

EXIT_CODES: Final = {401: UNAUTHORIZED, 403: UNAUTHORIZED, 404: UNKNOWN, 502: UNREACHABLE, 503: UNREACHABLE}
"""Of what the server answers; what isn't here is REFUSED."""
_QUERY_EXIT_CODES: Final = {**EXIT_CODES, 413: CUT_OFF, 504: CUT_OFF}
ANSWER_SECONDS: Final = 30.0
"""A command is a short matter, except a call and a query of one's own."""
_CONNECT_SECONDS: Final = 30.0
"""Also of a command whose answer is waited for without limit."""

Port = Literal["admin", "ingress"]

_PORTS: Final[dict[str, str]] = {"admin": "admin port", "ingress": "ingress"}
_ADDRESSES: Final[dict[Port, str]] = {"admin": "http://127.0.0.1:9070", "ingress": "http://127.0.0.1:8080"}
_TELL_THE_PORT: Final = (400, 401, 403, 404, 405)
"""Answers whose `source` is the port's own; of a connection that is too slow or too many it always is the ingress."""
_OF_A_PROXY: Final = (502, 503, 504)
"""It may have sent on what was asked."""
_IN_COMMANDS: Final = {
    "GET /services lists them": "`perdure services list` lists them",
    "GET /schedules lists them": "`perdure schedules list` lists them",
}
"""What the server says to who speaks HTTP, as it is said to who types commands."""


class CommandFailed(StartRefused):
    """There is no answer, or a bad one; the exit code says whose matter that is, `status` what the server said."""

    def __init__(self, message: str, exit_code: int, status: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.status = status


class TimedOut(CommandFailed):
    """No answer came as long as it was waited for."""


class _NotConnected(OSError):
    """Nothing was sent; its cause says why."""


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


def _connect(connection: http.client.HTTPConnection, connect: Callable[[], None]) -> None:
    """urllib has one time limit for both: to be connected, and to wait for an answer, which may take days."""
    answer_seconds = connection.timeout
    connection.timeout = _CONNECT_SECONDS if answer_seconds is None else min(_CONNECT_SECONDS, answer_seconds)
    try:
        connect()
    except OSError as error:
        raise _NotConnected(str(error)) from error
    connection.sock.settimeout(answer_seconds)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: object, fp: object, code: int, msg: str, headers: object, newurl: str) -> None:
        return None


class Server:
    """One port of a running process, at `url`; each request carries the token that `token_file` begins with.

    `answer_seconds` is how long nothing may come before it is given up; None: for ever.
    Raises CommandFailed, as each of its methods does.
    """

    def __init__(
        self,
        url: str,
        token_file: Path | None = None,
        port: Port = "admin",
        answer_seconds: float | None = ANSWER_SECONDS,
    ) -> None:
        self.url = _checked(url, port)
        self._port: Port = port
        self._token_file = token_file
        self.answer_seconds = answer_seconds
        token = _token_of(token_file)
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._opener = urllib.request.build_opener(_NoRedirects, _Http, _Https)

    def get(self, path: str, field: str) -> Any:
        """The answer's JSON, an object that has at least this field: anybody's port may answer with some JSON."""
        answer = self._json(self.open("GET", path, changes=False), changes=False)
        if not isinstance(answer, dict) or field not in answer:
            self.refuse_strange()
        return cast("dict[str, Any]", answer)

    def patch(self, path: str) -> Any:
        """The answer's JSON, None if it has no body."""
        return self._json(self.open("PATCH", path, b""), changes=True)

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Of a SELECT."""
        try:
            rows: list[dict[str, Any]] = json.loads(self.query(statement, "application/json"))["rows"]
        except (ValueError, KeyError, TypeError):
            self.refuse_strange()
        return rows

    def query(self, statement: str, accept: str) -> bytes:
        """The whole answer to a SELECT, as `accept` asks for it."""
        body = json.dumps({"query": statement}).encode()
        with self.open("POST", "/query", body, {"accept": accept}, _QUERY_EXIT_CODES, changes=False) as response:
            return self.read(response, changes=False)

    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        exit_codes: Mapping[int, int] = EXIT_CODES,
        *,
        changes: bool = True,
    ) -> http.client.HTTPResponse:
        """A good answer, its body not yet read; close it.  `changes`: whether what is asked does more than read."""
        named = {"content-type": "application/json", **(headers or {}), **self._headers}
        sent = {name: value.encode().decode("latin-1") for name, value in named.items()}  # as http.client wants UTF-8
        request = urllib.request.Request(self.url + path, body, sent, method=method)
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=self.answer_seconds)
        except urllib.error.HTTPError as error:
            with error:
                raise self._failure(error, exit_codes, changes=changes) from error
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(error, changes=changes) from error
        return response

    def read(self, response: http.client.HTTPResponse, *, changes: bool = True) -> bytes:
        """The rest of the body."""
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(error, changes=changes) from error

    def lost(self, error: Exception, *, changes: bool) -> CommandFailed:
        """What an error on the way means: that nothing was asked or changed, or that nobody knows."""
        reason = getattr(error, "reason", error)
        if isinstance(reason, _NotConnected):
            return self._not_reached(reason.__cause__ or reason)
        means = "what was asked may have happened" if changes else "nothing was changed, ask again"
        exit_code = OUTCOME_UNKNOWN if changes else UNREACHABLE
        if isinstance(reason, TimeoutError):
            return TimedOut(f"{self.url} did not answer for {self.answer_seconds:g} s: {means}", exit_code)
        why = f"the answer of {self.url} was lost ({str(reason) or type(reason).__name__})"
        return CommandFailed(f"{why}: {means}", exit_code)

    def _not_reached(self, error: BaseException) -> CommandFailed:
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"the certificate of {self.url} is not trusted ({error.verify_message})"
            return CommandFailed(f"{why}: SSL_CERT_FILE names an authority of your own", UNREACHABLE)
        return CommandFailed(f"nobody answers at {self.url} ({error}): is `perdure serve` running?", UNREACHABLE)

    def _json(self, response: http.client.HTTPResponse, *, changes: bool) -> Any:
        with response:
            body = self.read(response, changes=changes)
        try:
            return json.loads(body) if body else None
        except ValueError:
            self.refuse_strange()

    def refuse_strange(self) -> NoReturn:
        """An answer that is good, and not to be understood."""
        raise CommandFailed(f"what {self.url} answers is not Perdure's: is that the right port?", UNREACHABLE)

    def _failure(self, error: urllib.error.HTTPError, exit_codes: Mapping[int, int], *, changes: bool) -> CommandFailed:
        try:
            said = json.loads(error.read())
            message, source = str(said["message"]), said.get("source")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
            return self._strange(error, exit_codes, changes=changes)
        status = error.code
        exit_code = exit_codes.get(status, REFUSED)
        if source == "invocation":
            message, exit_code = f"{said.get('type')}: {message} ({status})", HANDLER_FAILED
        elif status in _TELL_THE_PORT and source in _PORTS and source != self._port:
            message, exit_code = self._other_port(source), USAGE
        elif status == 401:
            message = self._without_token()
        elif status == 503 and error.headers.get("retry-after") is None:  # which is said where nothing was recorded
            if changes:
                exit_code = OUTCOME_UNKNOWN
            else:
                message = f"{self.url} stops, or its journal failed: nothing was changed, ask again when it is back"
        for of_http, of_commands in _IN_COMMANDS.items():
            message = message.replace(of_http, of_commands)
        return CommandFailed(message, exit_code, status)

    def _strange(self, error: urllib.error.HTTPError, exit_codes: Mapping[int, int], *, changes: bool) -> CommandFailed:
        text = f"{self.url} answers {error.code} {error.reason}, which is not Perdure's: is that the right port?"
        if changes and error.code in _OF_A_PROXY:
            return CommandFailed(f"{text} What was asked may have happened", OUTCOME_UNKNOWN, error.code)
        return CommandFailed(text, exit_codes.get(error.code, UNREACHABLE), error.code)

    def _other_port(self, source: str) -> str:
        meant = f"{_option(self._port)} takes the {_PORTS[self._port]}, such as {_ADDRESSES[self._port]}"
        return f"{self.url} is the {_PORTS[source]}: {meant}; nothing was done"

    def _without_token(self) -> str:
        if self._token_file is not None:
            return f"{self.url} does not take the token in {self._token_file}: --token-file names another file"
        variable = f"PERDURE_{self._port.upper()}_TOKEN_FILE"
        return f"{self.url} needs a token: --token-file, or {variable}, names the file that it is in"


def _option(port: Port) -> str:
    return f"--{port} (or PERDURE_{port.upper()})"


def _checked(url: str, port: Port) -> str:
    if "@" in url:  # not shown: what stands before it may be a password
        raise CommandFailed(
            f"{_option(port)} has an @ in it: no user and no password belong there, a token is read by --token-file",
            USAGE,
        )
    with suppress(ValueError):  # a port that is no number, a bracket too few
        parts = urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port >= 0) and plain:
            return url.rstrip("/")
    shown = url or "empty"
    what = f"is {shown}, which is no address of a running process"
    raise CommandFailed(f"{_option(port)} {what}, such as {_ADDRESSES[port]}", USAGE)


def _token_of(file: Path | None) -> str | None:
    """The first of those in the file."""
    if file is None:
        return None
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise CommandFailed(f"cannot read the token file {file}: {error.strerror}", USAGE) from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"the token file {file} is no text", USAGE) from error
    token = next((line.strip() for line in lines if line.strip()), None)
    if token is None:
        raise CommandFailed(f"the token file {file} is empty", USAGE)
    if not token.isprintable():
        raise CommandFailed(f"the token file {file} has control characters in it", USAGE)
    return token
