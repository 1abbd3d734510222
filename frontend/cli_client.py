"""How the command line talks to a running server: HTTP with what Python brings along."""

from __future__ import annotations

import json
import re
import socket
import ssl
import urllib.error
import urllib.request
from http.client import HTTPConnection, HTTPException
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from .. import FlambeauError
from .settings import Address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

READ_TIMEOUT = 10.0
"""Seconds that a server may take to describe itself."""
PAGE_SIZE = 100
CERT_HINT = " If it asks for certificates, name a file with one and its key with --cert."
KEY_HINT = " Use --key or FLAMBEAU_API_KEY."

_KEY = re.compile(r"[!-~]+")


class UnreachableError(FlambeauError):
    """Nobody answers at the address, or not in time."""


class AnswerError(FlambeauError):
    """The server answered with an error, or with what flambeau does not understand."""


class Server:
    """One listener of a server, by its URL; ``0.0.0.0`` and ``::`` are reached as this machine.

    ``cacert`` is a file with the certificates that vouch for an https server, in place of those
    that this machine trusts. ``pinned`` is the server's own certificate, by whatever name it is
    called. ``key`` is sent with each request. ``cert`` is a file with the certificate and the key
    to show to the server. Raises FlambeauError for a URL that is none, for
    files that hold no certificate, and for a key that no header can hold.
    """

    def __init__(
        self,
        url: str,
        cacert: str | None = None,
        pinned: str | None = None,
        key: str | None = None,
        cert: str | None = None,
    ) -> None:
        if key is not None and not _KEY.fullmatch(key):
            # What is wrong with it is not said by showing it.
            raise AnswerError("The key has characters that no key has, or is empty.")
        self._key = key
        self._wants_cert = url.startswith("https:") and cert is None
        self.url = _reachable(url)
        self._base = "http://localhost" if self.url.startswith("unix:") else self.url
        self.context = _trust(cacert, pinned, cert) if self.url.startswith("https:") else None
        self._opener = urllib.request.build_opener(_KeepErrors, *_handlers(self.url, self.context))

    def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The open response, whatever its status; raises UnreachableError.

        ``timeout`` is the seconds of silence that are put up with, None for any.
        """
        request = urllib.request.Request(self._base + path, data=body, method=method)  # noqa: S310
        if body is not None:
            request.add_header("Content-Type", content_type or "application/octet-stream")
        if self._key is not None:
            request.add_header("Authorization", f"Bearer {self._key}")
        try:
            return self._opener.open(request, timeout=timeout)
        except TimeoutError:
            raise self._silent(timeout) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._silent(timeout) from None
            raise self._nobody(error.reason) from None
        except (OSError, HTTPException, ValueError) as error:
            # TLS 1.3 refuses a client after the client believes that all is well.
            hint = CERT_HINT if self._wants_cert else ""
            raise UnreachableError(
                f"No proper answer came from {self.url}: {error!r}.{hint}"
            ) from None

    def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, object] | None = None,
        timeout: float | None = READ_TIMEOUT,
    ) -> Any:
        """The JSON of the answer; raises AnswerError with the server's words if it is an error."""
        target = "/" + "/".join(quote(part, safe="") for part in path)
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        target += f"?{urlencode(given)}" if given else ""
        with self.send(method, target, timeout=timeout) as response:
            content = self._read(response, timeout)
        if response.status >= 400:
            hint = KEY_HINT if response.status == 401 else ""
            raise AnswerError(error_text(response.status, response.reason, content) + hint)
        try:
            return json.loads(content)
        except ValueError:
            raise AnswerError(f"What {self.url} answers is not JSON. Is it flambeau's?") from None

    def models(self) -> Iterator[dict[str, Any]]:
        """All registered models as the management API lists them, page by page."""
        token: str | None = None
        while True:
            page = self.call("GET", "models", query={"limit": PAGE_SIZE, "next_page_token": token})
            yield from page["models"]
            token = page.get("nextPageToken")
            if not token or not page["models"]:
                return

    def _read(self, response: IO[bytes], timeout: float | None) -> bytes:
        try:
            return response.read()
        except TimeoutError:
            raise self._silent(timeout) from None
        except (OSError, HTTPException) as error:
            raise UnreachableError(f"The answer of {self.url} broke off: {error!r}.") from None

    def _silent(self, timeout: float | None) -> UnreachableError:
        return UnreachableError(f"{self.url} did not answer within {timeout:g} s.")

    def _nobody(self, reason: object) -> UnreachableError:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return UnreachableError(
                f"The certificate of {self.url} is not trusted ({reason.verify_message}); "
                "name a file with those that vouch for it with --cacert."
            )
        why = "" if isinstance(reason, ConnectionRefusedError) else f" ({reason})"
        return UnreachableError(
            f"No server answers at {self.url}{why}; "
            "start one with: flambeau start --model-store DIR"
        )


def error_text(status: int, reason: str, content: bytes) -> str:
    """What an error answer says, for a person: TorchServe's envelope if it is one."""
    try:
        envelope = json.loads(content)
        return f"{envelope['message']} ({status} {envelope['type']})"
    except (ValueError, KeyError, TypeError):
        text = content.decode(errors="replace").strip()
        return f"HTTP {status} {reason}: {text}" if text else f"HTTP {status} {reason}"


class _KeepErrors(urllib.request.HTTPErrorProcessor):
    """Hands out every answer as it is: errors are answers, and nothing is redirected."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, **options: Any) -> None:
        super().__init__("localhost", **options)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except BaseException:
            self.close()
            raise


class _UnixHandler(urllib.request.HTTPHandler):
    """Reaches every server through one Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def http_open(self, request: urllib.request.Request) -> Any:
        def connect(host: str, **options: Any) -> HTTPConnection:
            return _UnixConnection(self._path, **options)

        return self.do_open(connect, request)


def _handlers(url: str, context: ssl.SSLContext | None) -> list[urllib.request.BaseHandler]:
    if url.startswith("unix:"):
        return [_UnixHandler(url[len("unix:") :]), urllib.request.ProxyHandler({})]
    handlers: list[urllib.request.BaseHandler] = [*_proxies(url)]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return handlers


def _trust(cacert: str | None, pinned: str | None, cert: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cacert or pinned)
    except ssl.SSLError:
        raise AnswerError(f"{cacert or pinned} holds no certificate in PEM.") from None
    except OSError as error:
        raise AnswerError(f"{cacert or pinned} cannot be read: {error.strerror}.") from None
    if cacert or pinned:
        # A certificate in the file is trusted as it is, whoever vouches for it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = pinned is None
    if cert is not None:
        _show(context, cert)
    return context


def _show(context: ssl.SSLContext, cert: str) -> None:
    try:
        context.load_cert_chain(cert)
    except ssl.SSLError:
        raise AnswerError(f"{cert} holds no certificate with its private key in PEM.") from None
    except OSError as error:
        raise AnswerError(f"{cert} cannot be read: {error.strerror}.") from None


def _reachable(url: str) -> str:
    if url.startswith("unix:/"):
        return url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host:
        raise AnswerError(f"{url} is not an address such as http://127.0.0.1:8081.")
    if not Address(host, 0).is_wildcard:
        return url.rstrip("/")
    here = "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
    return f"{parts.scheme}://{here}" + (f":{port}" if port else "")


def _proxies(url: str) -> list[urllib.request.ProxyHandler]:
    """A proxy, even one that the environment names, cannot reach this machine's own servers."""
    host = urlsplit(url).hostname or ""
    return [urllib.request.ProxyHandler({})] if Address(host, 0).is_loopback else []


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
