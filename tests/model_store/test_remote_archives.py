"""Archives from elsewhere: within limits, or not at all."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import sys
import threading
from contextlib import contextmanager

import pytest
from model_bench import model_members, snapshot, write_zip

from flambeau.model_store.allowed_urls import AllowedUrls
from flambeau.model_store.errors import (
    DownloadError,
    InvalidModelError,
    ModelNotFoundError,
    StorageError,
)
from flambeau.model_store.remote import DownloadLimits, RemoteArchives
from flambeau.model_store.store import ModelStore


@pytest.fixture
def mar(tmp_path):
    (tmp_path / "made").mkdir()
    return write_zip(tmp_path / "made" / "a.mar", model_members()).read_bytes()


@pytest.fixture
def serve():
    """Serves answers by path on this machine, and notes what it was asked for."""
    servers = []

    def start(answers):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers["Host"]))
                status, headers, body = answers[self.path]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def unchanged(folder):
    before = snapshot(folder)
    yield
    assert snapshot(folder) == before


def remote(allowed: str, **how) -> RemoteArchives:
    return RemoteArchives(AllowedUrls(allowed), **{"allow_private": True, **how})


def test_an_archive_is_fetched_served_and_goes_with_its_model(tmp_path, serve, mar):
    url, _ = serve({"/m/a.mar": (200, {}, mar)})
    root = tmp_path / "store"
    root.mkdir()
    store = ModelStore(root, tmp_path / "cache", remote=remote(f"{url}/m"))
    with unchanged(root):
        model = store.acquire(f"{url}/m/a.mar")
        assert (root / "a.mar").read_bytes() == mar
        assert model.url == f"{url}/m/a.mar"
        store.release(model)


def test_a_model_that_cannot_be_accepted_leaves_the_store_as_it_was(tmp_path, serve):
    url, _ = serve({"/a.mar": (200, {}, b"no archive")})
    store = ModelStore(tmp_path / "s", tmp_path / "cache", remote=remote(url))
    (tmp_path / "s").mkdir()
    with unchanged(tmp_path / "s"), pytest.raises(InvalidModelError):
        store.acquire(f"{url}/a.mar")


def test_without_allowed_urls_nothing_is_asked_for(tmp_path, serve, mar):
    url, asked = serve({"/a.mar": (200, {}, mar)})
    (tmp_path / "s").mkdir()
    store = ModelStore(tmp_path / "s", tmp_path / "cache")
    for each in (
        f"{url}/a.mar",
        "file:///etc/passwd",
        "s3://bucket/a.mar",
        "http://169.254.169.254/latest/a.mar",
    ):
        with unchanged(tmp_path / "s"), pytest.raises(ModelNotFoundError, match="does not match"):
            store.acquire(each)
    assert not asked


def fails(tmp_path, url, error=DownloadError, match="Failed to download", sha256=None, **how):
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    allowed = how.pop("allowed", url.rpartition("/")[0])
    with unchanged(folder), pytest.raises(error, match=match):
        remote(allowed, **how).fetch(url, folder, sha256)


def test_private_addresses_are_not_spoken_to(tmp_path, serve, mar):
    url, asked = serve({"/a.mar": (200, {}, mar)})
    fails(tmp_path, f"{url}/a.mar", allow_private=False, match="not on the open internet")
    fails(
        tmp_path,
        f"{url}/a.mar".replace("127.0.0.1", "localhost"),
        allow_private=False,
        match="not on the open internet",
    )
    assert not asked


def test_a_name_is_looked_up_once(tmp_path, serve, mar, monkeypatch):
    url, asked = serve({"/a.mar": (200, {}, mar)})
    port = int(url.rpartition(":")[2])
    looked_up = []

    def look_up(host, *more, **how):
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("flambeau.model_store.remote.socket.getaddrinfo", look_up)
    named = f"http://models.example.com:{port}/a.mar"
    # Connecting by address asks the resolver again, with what is an address already.
    remote(f"http://models.example.com:{port}").fetch(named, tmp_path)
    assert [host for host in looked_up if host != "127.0.0.1"] == ["models.example.com"]
    assert asked == [("/a.mar", f"models.example.com:{port}")]


def test_redirects_are_checked_again(tmp_path, serve, mar):
    inside, reached = serve({"/x/a.mar": (200, {}, mar)})
    url, _ = serve({
        "/m/a.mar": (302, {"Location": "/m/b.mar"}, b""),
        "/m/b.mar": (200, {}, mar),
        "/m/out.mar": (302, {"Location": f"{inside}/x/a.mar"}, b""),
        "/m/loop.mar": (302, {"Location": "/m/loop.mar"}, b""),
        "/m/file.mar": (302, {"Location": "file:///etc/passwd"}, b""),
    })  # fmt: skip
    assert remote(f"{url}/m").fetch(f"{url}/m/a.mar", tmp_path).read_bytes() == mar
    fails(tmp_path, f"{url}/m/out.mar", ModelNotFoundError, "does not match")
    fails(tmp_path, f"{url}/m/file.mar", ModelNotFoundError, "does not match")
    fails(tmp_path, f"{url}/m/loop.mar", match="more than 5 redirects")
    assert not reached


def test_what_is_too_long_is_given_up(tmp_path, serve):
    url, _ = serve({
        "/told.mar": (200, {"Content-Length": "2000000"}, b""),
        "/untold.mar": (200, {}, b"x" * 2_000_000),
    })  # fmt: skip
    limits = DownloadLimits(size=1_000_000)
    fails(tmp_path, f"{url}/told.mar", match="longer than", limits=limits)
    fails(tmp_path, f"{url}/untold.mar", match="longer than", limits=limits)
    fails(tmp_path, f"{url}/untold.mar", match="took longer", limits=DownloadLimits(seconds=-1))


def test_other_answers_are_failures(tmp_path, serve):
    url, _ = serve({"/a.mar": (404, {}, b"")})
    fails(tmp_path, f"{url}/a.mar", match="the answer was 404")
    fails(tmp_path, "http://127.0.0.1:1/a.mar", match="Connection refused")


def test_a_sha256_may_be_demanded(tmp_path, serve, mar):
    url, asked = serve({"/a.mar": (200, {}, mar)})
    fails(tmp_path, f"{url}/a.mar", require_sha256=True, match="give its sha256")
    assert not asked
    fails(tmp_path, f"{url}/a.mar", InvalidModelError, "sha256 differs", sha256="0" * 64)
    digest = hashlib.sha256(mar).hexdigest().upper()
    found = remote(url, require_sha256=True).fetch(f"{url}/a.mar", tmp_path, digest)
    assert found.read_bytes() == mar


def test_a_file_that_is_there_is_never_replaced(tmp_path, serve, mar):
    url, _ = serve({"/a.mar": (200, {}, mar)})
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.mar").write_text("mine")
    fails(tmp_path, f"{url}/a.mar", StorageError, "Model file already exists a.mar")
    (folder / "a.mar").unlink()
    (folder / "a.mar").symlink_to("nowhere")
    fails(tmp_path, f"{url}/a.mar", StorageError, "already exists")


def test_a_local_file(tmp_path, mar):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.mar").write_bytes(mar)
    (tmp_path / "from" / "d.mar").mkdir()
    allowed = f"file://{tmp_path}/from"
    found = remote(allowed).fetch(f"{allowed}/a.mar", tmp_path)
    assert found.read_bytes() == mar
    fails(tmp_path, f"{allowed}/d.mar")
    fails(tmp_path, f"{allowed}/none.mar", match="No such file")


def test_s3_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    fails(tmp_path, "s3://bucket/prod/a.mar", match=r"flambeau\[s3\]")


def test_a_signed_request_goes_to_s3_and_no_further(tmp_path, monkeypatch, mar, serve):
    """The signature is for the first place; where that redirects to, it is not shown."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    away, _ = serve({"/b.mar": (200, {}, mar)})
    port, seen = signing_server(mar, f"{away}/b.mar")
    try:
        lookup = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *more, **rest: lookup("127.0.0.1", *more, **rest)
        )
        place = f"http://bucket.s3.amazonaws.com:{port.server_port}"
        fetched = remote(place).fetch(f"{place}/a.mar", tmp_path, sign=True)
        assert fetched.read_bytes() == mar
        scope = r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/eu-west-1/s3/aws4_request, .*"
        assert re.fullmatch(scope, seen[0])
        remote(f"{place},{away}").fetch(f"{place}/away.mar", tmp_path, sign=True)
        with pytest.raises(DownloadError, match=r"is for URLs of amazonaws\.com"):
            remote(away).fetch(f"{away}/b.mar", tmp_path / "made", sign=True)
    finally:
        port.shutdown()
        port.server_close()


def signing_server(mar, away):
    """Answers /a.mar, redirects /away.mar; notes the authorization of what it is asked."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_response(200 if self.path == "/a.mar" else 302)
            self.send_header("Location", away)
            self.end_headers()
            self.wfile.write(mar if self.path == "/a.mar" else b"")

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    return server, seen
