"""Key and certificate of the https listeners."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from .config import Config

_JAVA_MAGIC = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")


class Certificate:
    """What the https listeners show to clients; raises ConfigError if it cannot be used.

    TLS 1.2 is the oldest version that is spoken. With ``client_ca_file`` clients need a
    certificate, too.
    """

    def __init__(self, config: Config) -> None:
        self._key, self._chain = _pem_files(config)
        self._client_ca = config.client_ca_file
        self.context = self._fresh_context()

    def reload(self) -> None:
        """Read key and certificate again, for connections from now on.

        Raises ConfigError, with the old ones still in use, if the files do not fit. What
        ``client_ca_file`` holds is not read again.
        """
        self._fresh_context()
        self.context.load_cert_chain(self._chain, self._key)

    def _fresh_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _check_certificates("certificate_file", self._chain)
        _load_pair(context, self._chain, self._key)
        if self._client_ca is not None:
            _check_certificates("client_ca_file", self._client_ca)
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _pem_files(config: Config) -> tuple[Path, Path]:
    key, chain = config.private_key_file, config.certificate_file
    if key is not None and chain is not None:
        return key, chain
    if key is None and chain is None and config.keystore is not None:
        raise ConfigError(_conversion(config.keystore))
    missing = [
        name
        for name, value in (("private_key_file", key), ("certificate_file", chain))
        if value is None
    ]
    raise ConfigError(f"An https address needs {' and '.join(missing)}: PEM files.")


def _conversion(keystore: Path) -> str:
    """How to get PEM files out of Java's store."""
    try:
        with keystore.open("rb") as file:
            is_java = file.read(4) in _JAVA_MAGIC
    except OSError as error:
        raise ConfigError(f"keystore={keystore} cannot be read: {error.strerror}.") from None
    source, first = str(keystore), ""
    if is_java:
        source = "keystore.p12"
        first = (
            f"  keytool -importkeystore -srckeystore {keystore} "
            f"-destkeystore {source} -deststoretype PKCS12\n"
        )
    return (
        f"keystore={keystore}: Java's stores are not read. Convert it, and name the files with "
        f"private_key_file and certificate_file instead:\n{first}"
        f"  openssl pkcs12 -in {source} -nocerts -nodes -out key.pem\n"
        f"  openssl pkcs12 -in {source} -nokeys -out certificate.pem"
    )


def _check_certificates(key: str, path: Path) -> None:
    """Raise ConfigError if there is no certificate in the file."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(f"{key}={path} holds no certificate in PEM.") from None
    except OSError as error:
        raise ConfigError(f"{key}={path} cannot be read: {error.strerror}.") from None


def _load_pair(context: ssl.SSLContext, chain: Path, key: Path) -> None:
    asked = False

    def no_passphrase() -> str:
        # Without this OpenSSL would ask on the terminal, and wait.
        nonlocal asked
        asked = True
        return ""

    try:
        key.open("rb").close()
        context.load_cert_chain(chain, key, no_passphrase)
    except ssl.SSLError as error:
        if asked:
            fault = (
                "is encrypted. Decrypt it with: openssl pkey -in OLD -out NEW, "
                "and let nobody else read the new file"
            )
        elif error.reason == "KEY_VALUES_MISMATCH":
            fault = f"does not belong to certificate_file={chain}"
        else:
            fault = "holds no private key in PEM"
        raise ConfigError(f"private_key_file={key} {fault}.") from None
    except OSError as error:
        raise ConfigError(f"private_key_file={key} cannot be read: {error.strerror}.") from None
