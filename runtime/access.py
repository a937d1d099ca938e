"""Who may ask: bearer tokens, the names we answer to, and web pages that are not ours.  Both ports ask here.

    with tokens       every request but for the server's `open_paths` carries one of them: 401 without.
                      Nothing else is asked then: a token is what a web page can't know.
    without           a web page can make a browser on this machine send to us, so
      Host            is a name of ours: loopback's, the address asked, or one of `names`; 403 otherwise.  That holds
                      for a port bound to loopback, and wherever `names` are given.  A page whose own name was made
                      to point here (DNS rebinding) sends that name.
      Origin          is the Host's or one of `names`; without it Sec-Fetch-Site doesn't say "another"; 403 otherwise.

What a token is compared with are SHA-256 digests, all of them, in constant time: neither how much of it was right nor
its length can be measured, and nothing here holds a secret that a log line or a traceback could show.
TLS is made in `tls`; what may be asked, once somebody may ask, is the servers' matter.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from multidict import istr

from .admission import Refused
from .exits import StartRefused
from .secret_files import SecretFileError, read_secret

TOKEN_BYTES_MIN = 16
"""Shorter ones can be guessed over the network."""

_SEC_FETCH_SITE = istr("Sec-Fetch-Site")
_SAME_SITES = ("same-origin", "none")  # none: typed into the address bar
_HOST_SHOWN_MAX = 80


class TokenError(SecretFileError):
    """The tokens of a port can't be used, or there are none where they are needed."""


class HostNameError(StartRefused):
    """What `--ingress-host` gives is no name."""


class Asked(Protocol):
    """The connection: which Host it was last found to be asked by, and who it is that is asked."""

    own_host: str | None

    @property
    def own_address(self) -> str: ...


class Tokens:
    """The tokens of one port; any of them opens it, so that they can be rotated."""

    __slots__ = ("_digests",)

    def __init__(self, tokens: Iterable[bytes]) -> None:
        self._digests = [_digest(token) for token in tokens]

    def open(self, authorization: Collection[str]) -> bool:
        """Whether the request's Authorization headers are one, and `Bearer` with one of the tokens."""
        if len(authorization) != 1:
            return False
        scheme, _, token = next(iter(authorization)).partition(" ")
        # As it came: the parser hands bytes that are not UTF-8 over as surrogate escapes.
        given = _digest(token.strip(" \t").encode("utf-8", "surrogateescape"))
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(given, digest)
        return found and scheme.lower() == "bearer"


def load_tokens(file: Path | None) -> Tokens | None:
    """One token a line, without the white space around it.  Raises TokenError."""
    if file is None:
        return None
    lines = read_secret(file, "token file", TokenError).splitlines()
    tokens = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not tokens:
        raise TokenError(f"the token file {file} is empty: {_make_one(file)}")
    for number, token in tokens:
        if len(token) < TOKEN_BYTES_MIN:
            raise TokenError(
                f"the token in line {number} of {file} has {len(token)} bytes, at least {TOKEN_BYTES_MIN} are needed: "
                + _make_one(file)
            )
        if not all(0x21 <= byte <= 0x7E for byte in token):
            raise TokenError(
                f"the token in line {number} of {file} can't be sent in a header, which takes visible ASCII "
                f"without spaces: {_make_one(file)}"
            )
    return Tokens(token for _, token in tokens)


def is_loopback(host: str) -> bool:
    """Whether an address, or a name as in a Host header, can only mean this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """Who may ask on one port.

    `names` are further hosts to be asked as, each `NAME` or `NAME:PORT`; the port counts only for pages, whose Origin
    names it unless it is the scheme's own.  Raises HostNameError for what is none of these.
    """

    def __init__(self, tokens: Tokens | None = None, names: Iterable[str] = ()) -> None:
        self.tokens = tokens
        self._origins = frozenset(_checked_name(name) for name in names)
        self._names = frozenset(_host_name(name) for name in self._origins)
        self._names_matter = True

    def listens_on(self, addresses: Iterable[str]) -> None:
        """Beyond loopback we can't know by which names we are reached, unless we were told."""
        self._names_matter = bool(self._names) or all(is_loopback(address) for address in addresses)

    def require(self, request: web.BaseRequest, asked: Asked, open_paths: Collection[str] = ()) -> None:
        """Raises Refused: 401 without one of the tokens, 403 by a name or from a page that is not ours."""
        headers = request.headers
        if self.tokens is not None:
            if not self.tokens.open(headers.getall(hdrs.AUTHORIZATION, ())) and _path(request) not in open_paths:
                raise Refused(401, "this needs a token, as the header `authorization: Bearer …`")
            return
        # A connection nearly always has one Host: then it was looked at with the first request.
        host = headers.get(hdrs.HOST)
        if host != asked.own_host:
            self._require_own_name(host or "", asked)
            asked.own_host = host
        if hdrs.ORIGIN in headers or _SEC_FETCH_SITE in headers:
            self._require_own_page(request, host or "")

    def _require_own_name(self, host: str, asked: Asked) -> None:
        if not self._names_matter or not host:  # a browser always sends one
            return
        name = _host_name(host)
        if not (is_loopback(name) or name in self._names or _is_address(name, asked.own_address)):
            raise Refused(
                403,
                f"'{_shown(host)}' is no name that is answered to without a token: ask as localhost, "
                "or name it with --ingress-host if this is the ingress",
            )

    def _require_own_page(self, request: web.BaseRequest, host: str) -> None:
        """A page of any site can make a browser send here, and a GET of an `<img>` has no Origin to know it by."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            own = request.headers.get(_SEC_FETCH_SITE, "none") in _SAME_SITES
        else:
            authority = origin.lower().partition("://")[2]
            own = authority != "" and (authority == host.lower() or authority in self._origins)
        if not own:
            raise Refused(
                403,
                "a web page of another origin may not ask without a token; "
                "if it is yours, name its host with --ingress-host",
            )


def _path(request: web.BaseRequest) -> str:
    return request.raw_path.partition("?")[0]


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _make_one(file: Path) -> str:
    return f"`(umask 077; openssl rand -hex 16 > {file})` makes one"


def _host_name(host: str) -> str:
    """Of a Host header or an origin's authority: without the port, in lower case.  Empty: it is none."""
    if any(character in host for character in "@/?#\\"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _checked_name(name: str) -> str:
    try:
        good = bool(_host_name(name)) and name.isascii() and name.isprintable() and " " not in name and "*" not in name
        good = good and urlsplit(f"//{name}").port != 0
    except ValueError:
        good = False
    if not good:
        raise HostNameError(
            f"--ingress-host {name!r} is no NAME or NAME:PORT, such as app.example.com, without https:// before it "
            "or a path behind it; names that are not ASCII are written xn--…"
        )
    return name.lower()


def _is_address(name: str, own_address: str) -> bool:
    try:
        return _plain(name) == _plain(own_address)
    except ValueError:
        return False


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _shown(host: str) -> str:
    return host[:_HOST_SHOWN_MAX].encode("ascii", "replace").decode("ascii")
