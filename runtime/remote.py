"""The way of a command to a running process: one HTTP request, its answer, and what went wrong as one line.

    1   it was refused, or not confirmed
    2   the command line, an address or a token file can't be used: nothing was asked
    3   the answer was cut off: too long, too large
    4   nobody answers, or the answer was lost
    5   without the right token
    6   there is no such thing
    7   the handler ended in an error
    8   the state of an object was changed meanwhile, or a handler is at work on it: nothing was done

Certificates of an authority of one's own are found by OpenSSL's SSL_CERT_FILE.  A redirect is not followed: it would
take the token to somebody else.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from .exits import USAGE, StartRefused

REFUSED: Final = 1
CUT_OFF: Final = 3
UNREACHABLE: Final = 4
UNAUTHORIZED: Final = 5
UNKNOWN: Final = 6
HANDLER_FAILED: Final = 7
CONFLICT: Final = 8
OUTCOME_UNKNOWN: Final = 9

EXIT_CODES: Final = {401: UNAUTHORIZED, 403: UNAUTHORIZED, 404: UNKNOWN, 502: UNREACHABLE, 503: UNREACHABLE}
"""Of what the server answers; what isn't here is REFUSED."""
_QUERY_EXIT_CODES: Final = {**EXIT_CODES, 413: CUT_OFF, 504: CUT_OFF}
_QUERY_SECONDS: Final = 3600.0
"""How long a query may take is for the server to say."""
_ANSWER_SECONDS: Final = 60.0


class CommandFailed(StartRefused):
    """There is no answer, or a bad one; the exit code says whose matter that is, `status` what the server said."""

    def __init__(self, message: str, exit_code: int, status: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.status = status


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: object, fp: object, code: int, msg: str, headers: object, newurl: str) -> None:
        return None


class Server:
    """One port of a running process, at `url`; each request carries the token that `token_file` begins with.

    Raises CommandFailed, as each of its methods does.
    """

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        self.url = _checked(url)
        token = _token_of(token_file)
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._opener = urllib.request.build_opener(_NoRedirects)

    def get(self, path: str) -> Any:
        """The answer's JSON."""
        return self._json(self.open("GET", path, timeout=_ANSWER_SECONDS))

    def patch(self, path: str) -> Any:
        """The answer's JSON, None if it has no body."""
        return self._json(self.open("PATCH", path, b"", timeout=_ANSWER_SECONDS))

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Of a SELECT."""
        try:
            rows: list[dict[str, Any]] = json.loads(self.query(statement, "application/json"))["rows"]
        except (ValueError, KeyError, TypeError):
            self._not_ours()
        return rows

    def query(self, statement: str, accept: str) -> bytes:
        """The whole answer to a SELECT, as `accept` asks for it."""
        body = json.dumps({"query": statement}).encode()
        with self.open("POST", "/query", body, {"accept": accept}, _QUERY_SECONDS, _QUERY_EXIT_CODES) as response:
            return self.read(response)

    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        exit_codes: Mapping[int, int] = EXIT_CODES,
    ) -> http.client.HTTPResponse:
        """A good answer, its body not yet read; close it.  `timeout` is in seconds, None for ever."""
        named = {"content-type": "application/json", **(headers or {}), **self._headers}
        sent = {name: value.encode().decode("latin-1") for name, value in named.items()}  # as http.client wants UTF-8
        request = urllib.request.Request(self.url + path, body, sent, method=method)
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _failure(error, self.url, exit_codes) from error
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(error) from error
        return response

    def read(self, response: http.client.HTTPResponse) -> bytes:
        """The rest of the body."""
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(error) from error

    def lost(self, error: Exception) -> CommandFailed:
        """What an error on the way means: that nothing was asked, or that nobody knows."""
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            why = f"the certificate of {self.url} is not trusted ({reason.verify_message})"
            return CommandFailed(f"{why}: SSL_CERT_FILE names an authority of your own", UNREACHABLE)
        if isinstance(error, urllib.error.URLError) and not isinstance(reason, TimeoutError | ConnectionResetError):
            return CommandFailed(f"nobody answers at {self.url} ({reason}): is `perdure serve` running?", UNREACHABLE)
        why = f"the answer of {self.url} was lost ({str(reason) or type(reason).__name__})"
        return CommandFailed(f"{why}: what was asked may have happened", OUTCOME_UNKNOWN)

    def _json(self, response: http.client.HTTPResponse) -> Any:
        with response:
            body = self.read(response)
        try:
            return json.loads(body) if body else None
        except ValueError:
            self._not_ours()

    def _not_ours(self) -> NoReturn:
        raise CommandFailed(f"what {self.url} answers is not Perdure's: is that the right port?", UNREACHABLE)


def _checked(url: str) -> str:
    with suppress(ValueError):  # a port that is no number, a bracket too few
        parts = urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port >= 0) and plain:
            return url.rstrip("/")
    raise CommandFailed(f"{url} is no address of a running process, such as http://127.0.0.1:9070", USAGE)


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


def _failure(error: urllib.error.HTTPError, url: str, exit_codes: Mapping[int, int]) -> CommandFailed:
    try:
        said = json.loads(error.read())
        message, source = str(said["message"]), said.get("source")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        text = f"{url} answers {error.code} {error.reason}, which is not Perdure's: is that the right port?"
        return CommandFailed(text, exit_codes.get(error.code, UNREACHABLE), error.code)
    if source == "invocation":
        return CommandFailed(f"{said.get('type')}: {message} ({error.code})", HANDLER_FAILED, error.code)
    return CommandFailed(message, exit_codes.get(error.code, REFUSED), error.code)
