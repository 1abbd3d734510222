"""Archives from elsewhere: checked first, fetched within limits, then put into the model store.

Nothing is written before the URL is admitted. What is fetched goes into a hidden file and gets its
name when it is complete, in one step that never replaces another file. A name is looked up once
and the address that was checked is the one that is spoken to; each redirect starts from the
beginning.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import re
import secrets
import socket
import ssl
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from .allowed_urls import AllowedUrls, Url, is_public, parse_url
from .errors import DownloadError, InvalidModelError, ModelNotFoundError, StorageError
from .s3 import open_object, signed_headers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REDIRECTS = 5
_PIECE = 1 << 20
_PLAIN = {"Accept-Encoding": "identity"}
_STEP = 30.0
"""Seconds that a single step of a connection may take."""

logger = logging.getLogger("flambeau.model_store")


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Of a download: bytes in all, and seconds in all."""

    size: int = 20_000_000_000
    seconds: float = 600.0


class RemoteArchives:
    """Fetches what ``allowed`` admits.

    Addresses that are not of the open internet are spoken to with ``allow_private`` only.
    """

    def __init__(
        self,
        allowed: AllowedUrls,
        *,
        allow_private: bool = False,
        require_sha256: bool = False,
        limits: DownloadLimits = DownloadLimits(),
    ) -> None:
        self._allowed = allowed
        self._allow_private = allow_private
        self._require_sha256 = require_sha256
        self._limits = limits

    def fetch(self, text: str, folder: Path, sha256: str | None = None, sign: bool = False) -> Path:
        """The archive in ``folder``, under the last part of the URL's path.

        ``sign``: the request is signed for S3, as TorchServe's ``s3_sse_kms`` has it.

        Raises ModelNotFoundError for a URL that is not admitted, StorageError for a file that is
        there already, DownloadError when it cannot be had, InvalidModelError when it is not the
        one with that ``sha256``. The folder is then unchanged.
        """
        url = self._admitted(text)
        if self._require_sha256 and sha256 is None:
            raise DownloadError(f"Failed to download archive from: {text} (give its sha256)")
        target = folder / url.name
        if target.exists() or target.is_symlink():
            raise StorageError(f"Model file already exists {url.name}")
        draft = folder / f".{secrets.token_hex(8)}.part"
        try:
            self._download(url, draft, sha256, sign)
            os.link(draft, target)
        except FileExistsError:
            raise StorageError(f"Model file already exists {url.name}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            logger.warning("the download of %s failed: %s", url, error)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise DownloadError(f"Failed to download archive from: {text} ({reason})") from None
        finally:
            draft.unlink(missing_ok=True)
        logger.info("model store: fetched %s from %s", url.name, url)
        return target

    def _admitted(self, text: str) -> Url:
        try:
            url = parse_url(text)
        except ValueError:
            url = None
        if url is None or not self._allowed.admit(url):
            shown = "".join(char if char.isprintable() else "?" for char in text[:200])
            raise ModelNotFoundError(f"Given URL {shown} does not match any allowed URL(s)")
        return url

    def _download(self, url: Url, draft: Path, sha256: str | None, sign: bool) -> None:
        deadline = time.monotonic() + self._limits.seconds
        size, hasher = 0, hashlib.sha256()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file, self._opened(url, deadline, sign) as pieces:
            for piece in pieces:
                size += len(piece)
                self._refuse_longer(size)
                if time.monotonic() > deadline:
                    raise ValueError(f"it took longer than {self._limits.seconds:g} s")
                hasher.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if sha256 is not None and hasher.hexdigest() != sha256.lower():
            raise InvalidModelError(
                "The archive is not the one that was asked for: its sha256 differs."
            )

    @contextlib.contextmanager
    def _opened(self, url: Url, deadline: float, sign: bool) -> Iterator[Iterator[bytes]]:
        if url.scheme == "file":
            with _local_file(url.path) as file:
                yield iter(lambda: file.read(_PIECE), b"")
        elif url.scheme == "s3":
            with open_object(url) as (body, length):
                self._refuse_longer(length)
                yield iter(lambda: body.read(_PIECE), b"")
        else:
            with self._response(url, deadline, _headers(url, sign)) as response:
                yield iter(lambda: response.read(_PIECE), b"")

    @contextlib.contextmanager
    def _response(
        self, url: Url, deadline: float, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        for _ in range(REDIRECTS + 1):
            if time.monotonic() > deadline:
                raise ValueError(f"it took longer than {self._limits.seconds:g} s")
            connection = self._connection(url)
            response: http.client.HTTPResponse | None = None
            try:
                target = f"{url.path}?{url.query}" if url.query else url.path
                connection.request("GET", target, headers={**headers, **_PLAIN})
                response = connection.getresponse()
                location = response.getheader("Location")
                if response.status in (301, 302, 303, 307, 308) and location is not None:
                    query = f"?{url.query}" if url.query else ""
                    url = self._admitted(urljoin(f"{url}{query}", location))
                    # A signature is for the place that it was made for.
                    headers = {}
                    continue
                if response.status != 200:
                    raise ValueError(f"the answer was {response.status}")
                length = response.getheader("Content-Length", "0")
                self._refuse_longer(int(length) if length.isdigit() else 0)
                yield response
                return
            finally:
                # It holds the socket too, until it is read to its end.
                if response is not None:
                    response.close()
                connection.close()
        raise ValueError(f"it leads through more than {REDIRECTS} redirects")

    def _refuse_longer(self, length: int) -> None:
        if length > self._limits.size:
            raise ValueError(f"it is longer than {self._limits.size} bytes")

    def _connection(self, url: Url) -> http.client.HTTPConnection:
        address = self._address(url)
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                url.host, url.port, timeout=_STEP, context=context
            )
        else:
            connection = http.client.HTTPConnection(url.host, url.port, timeout=_STEP)
        # The name stands in the request and in the certificate; the way there is the checked one.
        pinned: Any = connection
        pinned._create_connection = lambda _, *more: socket.create_connection(address, *more)
        return connection

    def _address(self, url: Url) -> tuple[str, int]:
        """The first address of the host; raises ValueError if any of them is not public."""
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        addresses = [str(sockaddr[0]) for *_, sockaddr in found]
        if not self._allow_private and not all(map(is_public, addresses)):
            raise ValueError(
                "its host is not on the open internet; allow_private_urls=true permits that"
            )
        return addresses[0], int(url.port or 0)


def _headers(url: Url, sign: bool) -> dict[str, str]:
    """Signatures are for S3 alone: the server's credentials vouch for them."""
    if not sign:
        return {}
    if not re.fullmatch(r"(.+\.)?amazonaws\.com(\.cn)?", url.host):
        raise ValueError("s3_sse_kms=true is for URLs of amazonaws.com; others have s3://")
    return signed_headers(f"{url}?{url.query}" if url.query else str(url))


@contextlib.contextmanager
def _local_file(path: str) -> Iterator[Any]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no file")
    with open(descriptor, "rb") as file:
        yield file
