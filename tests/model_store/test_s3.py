"""Models from S3, fetched from a server on this machine that speaks its protocol."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from model_bench import model_members, snapshot, write_zip

from flambeau.model_store.allowed_urls import AllowedUrls
from flambeau.model_store.errors import DownloadError, ModelNotFoundError
from flambeau.model_store.remote import DownloadLimits, RemoteArchives
from flambeau.model_store.store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server with the bucket ``models``; the environment leads to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer
    import boto3

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield client
    client.close()
    server.stop()


def store(tmp_path: Path, allowed: str, **limits: Any) -> ModelStore:
    (tmp_path / "store").mkdir(exist_ok=True)
    remote = RemoteArchives(AllowedUrls(allowed), limits=DownloadLimits(**limits))
    return ModelStore(tmp_path / "store", tmp_path / "cache", remote=remote)


def test_an_archive_of_a_bucket_is_served_and_goes_with_its_model(
    tmp_path: Path, bucket: Any
) -> None:
    content = write_zip(tmp_path / "a.mar", model_members()).read_bytes()
    bucket.put_object(Bucket="models", Key="prod/v1/a.mar", Body=content)
    models = store(tmp_path, "s3://models/prod")
    found = models.acquire("s3://models/prod/v1/a.mar")
    assert found.url == "s3://models/prod/v1/a.mar"
    assert (tmp_path / "store" / "a.mar").read_bytes() == content
    assert found.manifest is not None
    models.release(found)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "limits", "error", "words"),
    [
        ("s3://models/prod/none.mar", {}, DownloadError, "S3 refused it (NoSuchKey)"),
        ("s3://other/prod/a.mar", {}, ModelNotFoundError, "does not match any allowed URL"),
        ("s3://models/dev/a.mar", {}, ModelNotFoundError, "does not match any allowed URL"),
        ("s3://absent/a.mar", {}, DownloadError, "S3 refused it (NoSuchBucket)"),
        ("s3://models/prod/a.mar", {"size": 10}, DownloadError, "it is longer than 10 bytes"),
    ],
)
def test_what_cannot_be_had_leaves_the_store_as_it_was(
    tmp_path: Path,
    bucket: Any,
    url: str,
    limits: dict[str, Any],
    error: type[DownloadError],
    words: str,
) -> None:
    bucket.put_object(Bucket="models", Key="prod/a.mar", Body=b"twelve bytes")
    models = store(tmp_path, "s3://models/prod,s3://absent", **limits)
    before = snapshot(tmp_path / "store")
    with pytest.raises(error) as refused:
        models.acquire(url)
    assert words in refused.value.message
    assert snapshot(tmp_path / "store") == before


def test_without_credentials_it_is_refused(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DownloadError, match="NoCredentialsError"):
        store(tmp_path, "s3://models").acquire("s3://models/a.mar")
