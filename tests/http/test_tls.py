"""TLS: what clients get, what files will do, and what is said about those that will not."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from flambeau.frontend.cli import main
from flambeau.frontend.config import Config
from flambeau.frontend.errors import ConfigError
from flambeau.frontend.runstate import write_state
from flambeau.frontend.tls import Certificate

ANY = "https://127.0.0.1:0"


@dataclass(frozen=True)
class Files:
    """An authority, and a key and certificate for 127.0.0.1 that it vouches for."""

    key: Path
    chain: Path
    authority: Path
    root: trustme.CA

    @classmethod
    def make(cls, folder: Path) -> Files:
        folder.mkdir()
        root = trustme.CA()
        issued = root.issue_cert("127.0.0.1", "localhost")
        files = cls(folder / "key.pem", folder / "chain.pem", folder / "ca.pem", root)
        issued.private_key_pem.write_to_path(files.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(files.chain, append=True)
        root.cert_pem.write_to_path(files.authority)
        return files

    @property
    def settings(self) -> dict[str, Path]:
        return {"private_key_file": self.key, "certificate_file": self.chain}

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("tls") / "a")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("tls") / "b")


def ask(house, context: ssl.SSLContext, target: str = "/ping", body: bytes | None = None):
    address = house.listeners.addresses["inference"]
    connection = http.client.HTTPSConnection(*address, context=context, timeout=20)
    try:
        connection.request("GET" if body is None else "POST", target, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def refusal(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Certificate(Config(inference_address=ANY, **settings))  # type: ignore[arg-type]
    return caught.value.message


def test_a_listener_speaks_tls_where_its_address_says_so(make_house, files):
    house = make_house(inference_address=ANY, **files.settings)
    assert house.listeners.urls["inference"].startswith("https://127.0.0.1:")
    assert house.listeners.urls["management"].startswith("http://127.0.0.1:")
    assert ask(house, files.trusting())[0] == 200
    large = b"x" * house.config.max_request_size
    assert ask(house, files.trusting(), "/predictions/m", large) == (200, large)
    assert house.manage("GET", "/models").status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(make_house, files, version):
    house = make_house(inference_address=ANY, **files.settings)
    context = files.trusting()
    context.minimum_version = context.maximum_version = version
    assert ask(house, context)[0] == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_older_tls_is_refused(make_house, files):
    house = make_house(inference_address=ANY, **files.settings)
    context = files.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        ask(house, context)


def test_plain_http_where_tls_is_spoken_is_told_so_in_torchserves_words(make_house, files):
    house = make_house(inference_address=ANY, cors_allowed_origin="*", **files.settings)
    reply = house.ask("GET", "/ping")
    assert (reply.status, reply.reason) == (403, "Forbidden")
    assert reply.body == (
        b'{\n  "status": "This TorchServe instance only accepts HTTPS requests"\n}\n'
    )
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Connection"] == "close"
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "x-request-id" not in reply.headers
    assert ask(house, files.trusting())[0] == 200


def test_a_large_plain_request_gets_its_answer_too(make_house, files):
    house = make_house(inference_address=ANY, **files.settings)
    assert house.ask("POST", "/predictions/m", bytes(1_000_000)).status == 403


def test_a_client_that_leaves_before_the_handshake_leaves_nothing(make_house, files, caplog):
    house = make_house(inference_address=ANY, **files.settings)
    address = house.listeners.addresses["inference"]
    socket.create_connection(address).close()
    with socket.create_connection(address) as client:
        client.sendall(b"\x16\x03\x01\x00\x05hello")
        assert b"HTTP" not in client.recv(1000)
    assert ask(house, files.trusting())[0] == 200
    assert caplog.records == []


def test_listeners_close_while_clients_are_before_their_handshake(make_house, files):
    house = make_house(inference_address=ANY, **files.settings)
    address = house.listeners.addresses["inference"]
    with socket.create_connection(address) as silent, socket.create_connection(address) as half:
        half.sendall(b"\x16\x03\x01")
        assert ask(house, files.trusting())[0] == 200
        house.run(house.listeners.stop_accepting())
        assert house.listeners.connections == 2
        house.run(house.listeners.close())
        silent.settimeout(20)
        assert silent.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_a_taken_https_port_is_named_with_the_setting(make_house, files):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} on 127.0.0.1 is in use.*metrics_addr"):
            make_house(metrics_address=f"https://127.0.0.1:{port}", **files.settings)


def test_clients_must_show_a_certificate_where_an_authority_is_named(make_house, files, others):
    house = make_house(inference_address=ANY, client_ca_file=others.authority, **files.settings)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(house, files.trusting())
    context = files.trusting()
    others.root.issue_cert("client@example.org").configure_cert(context)
    assert ask(house, context)[0] == 200
    context = files.trusting()
    files.root.issue_cert("stranger@example.org").configure_cert(context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(house, context)


def test_a_new_certificate_counts_for_new_connections(make_house, files, others, tmp_path):
    key, chain = tmp_path / "key", tmp_path / "chain"
    key.write_bytes(files.key.read_bytes())
    chain.write_bytes(files.chain.read_bytes())
    house = make_house(inference_address=ANY, private_key_file=key, certificate_file=chain)
    address = house.listeners.addresses["inference"]
    old = http.client.HTTPSConnection(*address, context=files.trusting(), timeout=20)
    old.request("GET", "/ping")
    old.getresponse().read()
    key.write_bytes(others.key.read_bytes())
    chain.write_bytes(others.chain.read_bytes())
    house.loop.call_soon_threadsafe(house.listeners.reload_certificate)
    assert ask(house, others.trusting())[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(house, files.trusting())
    old.request("GET", "/ping")
    assert old.getresponse().status == 200
    old.close()


def test_a_certificate_that_does_not_fit_does_not_replace_the_old_one(
    make_house, files, others, tmp_path, caplog
):
    key, chain = tmp_path / "key", tmp_path / "chain"
    key.write_bytes(files.key.read_bytes())
    chain.write_bytes(files.chain.read_bytes())
    house = make_house(inference_address=ANY, private_key_file=key, certificate_file=chain)
    chain.write_bytes(others.chain.read_bytes())
    house.loop.call_soon_threadsafe(house.listeners.reload_certificate)
    assert ask(house, files.trusting())[0] == 200
    assert "the certificate is not replaced: private_key_file=" in caplog.text


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "private_key_file and certificate_file"),
        (("private_key_file",), "certificate_file"),
        (("certificate_file",), "private_key_file"),
    ],
)
def test_a_missing_setting_is_named(files, given, missing):
    message = refusal(**{name: files.settings[name] for name in given})
    assert message == f"An https address needs {missing}: PEM files."


def test_without_an_https_address_the_files_are_not_looked_at(make_house):
    make_house(private_key_file=Path("/none"), certificate_file=Path("/none"))


def test_files_that_cannot_be_used_are_named(files, others, tmp_path):
    gone, nonsense = tmp_path / "gone", tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for name in ("private_key_file", "certificate_file", "client_ca_file"):
        settings = {**files.settings, "client_ca_file": files.authority}
        message = refusal(**{**settings, name: gone})
        assert message == f"{name}={gone} cannot be read: No such file or directory."
        what = "private key" if name == "private_key_file" else "certificate"
        message = refusal(**{**settings, name: nonsense})
        assert message == f"{name}={nonsense} holds no {what} in PEM."
    message = refusal(private_key_file=others.key, certificate_file=files.chain)
    assert message == (
        f"private_key_file={others.key} does not belong to certificate_file={files.chain}."
    )


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def test_keys_may_be_pkcs8_or_pkcs1_but_not_encrypted(tmp_path):
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=h", "-days", "1"]
    openssl("req", *made, "-keyout", key, "-out", chain)
    assert b"BEGIN PRIVATE KEY" in key.read_bytes()
    old = tmp_path / "old.pem"
    openssl("rsa", "-in", key, "-traditional", "-out", old)
    assert b"BEGIN RSA PRIVATE KEY" in old.read_bytes()
    for each in (key, old):
        Certificate(Config(private_key_file=each, certificate_file=chain))
    secret = tmp_path / "secret.pem"
    openssl("rsa", "-in", key, "-aes128", "-passout", "pass:x", "-out", secret)
    message = refusal(private_key_file=secret, certificate_file=chain)
    assert message.startswith(f"private_key_file={secret} is encrypted. Decrypt it with: openssl")


@pytest.mark.parametrize(
    ("content", "needs_keytool"), [(b"\xfe\xed\xfe\xed\x00", True), (b"0\x82\x0a", False)]
)
def test_a_java_keystore_is_refused_with_how_to_convert_it(tmp_path, content, needs_keytool):
    store = tmp_path / "keystore"
    store.write_bytes(content)
    message = refusal(keystore=store)
    assert message.startswith(f"keystore={store}: Java's stores are not read.")
    assert (f"keytool -importkeystore -srckeystore {store}" in message) == needs_keytool
    source = "keystore.p12" if needs_keytool else store
    assert f"openssl pkcs12 -in {source} -nocerts -nodes -out key.pem" in message


def test_what_the_conversion_tells_works(files, tmp_path):
    store, key, chain = tmp_path / "store.p12", tmp_path / "key.pem", tmp_path / "certificate.pem"
    packed = ["-in", files.chain, "-inkey", files.key, "-passout", "pass:x"]
    openssl("pkcs12", "-export", *packed, "-out", store)
    for line in refusal(keystore=store).splitlines()[1:]:
        subprocess.run(
            [*line.split(), "-passin", "pass:x"], cwd=tmp_path, check=True, capture_output=True
        )
    Certificate(Config(private_key_file=key, certificate_file=chain))


def test_commands_reach_an_https_server(make_house, files, tmp_path, monkeypatch):
    house = make_house(inference_address=ANY, management_address=ANY, **files.settings)
    management = house.listeners.urls["management"]
    inference = house.listeners.urls["inference"]
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("FLAMBEAU_RUN_DIR", str(tmp_path))
    os.chmod(tmp_path, 0o700)
    write_state(tmp_path, house.listeners.urls, files.chain)
    run = CliRunner().invoke
    (server,) = json.loads(run(main, ["status", "--json"]).output)["servers"]
    assert (server["health"], server.get("error")) == ("Healthy", None)
    list_models = ["models", "list", "--json", "--management", management]
    untrusted = run(main, list_models)
    assert "is not trusted" in untrusted.output
    assert "--cacert" in untrusted.output
    listed = run(main, [*list_models, "--cacert", str(files.authority)])
    assert [each["modelName"] for each in json.loads(listed.output)["models"]] == ["m"]
    asked = ["predict", "m", "--json", "[1]", "--url", inference, "--cacert", str(files.chain)]
    assert run(main, asked).output == "[1]"
    assert "cannot be read" in run(main, [*list_models, "--cacert", "/none"]).output
    assert "no certificate" in run(main, [*list_models, "--cacert", str(files.key)]).output


def test_commands_show_a_certificate_where_one_is_asked_for(
    make_house, files, others, tmp_path, monkeypatch
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    house = make_house(management_address=ANY, client_ca_file=others.authority, **files.settings)
    client = tmp_path / "client.pem"
    issued = others.root.issue_cert("client@example.org")
    issued.private_key_and_cert_chain_pem.write_to_path(client)
    run = CliRunner().invoke
    asked = ["models", "list", "--json", "--cacert", str(files.authority)]
    asked += ["--management", house.listeners.urls["management"]]
    assert "--cert" in run(main, asked).output
    listed = run(main, [*asked, "--cert", str(client)])
    assert [each["modelName"] for each in json.loads(listed.output)["models"]] == ["m"]
    monkeypatch.setenv("FLAMBEAU_CLIENT_CERTIFICATE", str(files.chain))
    assert "with its private key" in run(main, asked).output
    assert "cannot be read" in run(main, [*asked, "--cert", "/none"]).output


def test_grpc_gets_the_new_certificate_too(make_client, files, others, tmp_path):
    key, chain = tmp_path / "key", tmp_path / "chain"
    key.write_bytes(files.key.read_bytes())
    chain.write_bytes(files.chain.read_bytes())
    settings = {"private_key_file": key, "certificate_file": chain, "enable_grpc_ssl": True}
    client = make_client(**settings)
    host, _, port = client.listeners.urls["grpc_inference"].rpartition("/")[2].partition(":")

    def shown() -> str:
        return ssl.get_server_certificate((host, int(port)), timeout=20)

    first = shown()
    key.write_bytes(b"none")
    client.listeners.reload_certificate()
    assert shown() == first
    key.write_bytes(others.key.read_bytes())
    chain.write_bytes(others.chain.read_bytes())
    client.listeners.reload_certificate()
    assert shown() != first
