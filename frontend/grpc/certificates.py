"""Key and certificate of the gRPC listeners, which can be renewed while they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from ..errors import ConfigError
from ..tls import Certificate

if TYPE_CHECKING:
    from ..config import Config


class RenewableCredentials:
    """``credentials`` for a secure port; raises ConfigError for files that do not fit."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._fresh: Any = None
        self.credentials = grpc.dynamic_ssl_server_credentials(
            self._read(), self._take, require_client_authentication=bool(config.client_ca_file)
        )

    def renew(self) -> None:
        """Read the files again, for connections from now on; raises ConfigError if they do not fit.

        The old ones stay in use then.
        """
        self._fresh = self._read()

    def _take(self) -> Any:
        """Asked by gRPC, on a thread of its own, before each handshake; None: nothing is new."""
        fresh, self._fresh = self._fresh, None
        return fresh

    def _read(self) -> Any:
        config = self._config
        key, chain, authority = (
            config.private_key_file,
            config.certificate_file,
            config.client_ca_file,
        )
        if key is None or chain is None:
            raise ConfigError("enable_grpc_ssl=true needs private_key_file and certificate_file.")
        # gRPC itself says nothing of files that do not fit: its connections break.
        Certificate(config)
        try:
            return grpc.ssl_server_certificate_configuration(
                [(key.read_bytes(), chain.read_bytes())],
                None if authority is None else authority.read_bytes(),
            )
        except OSError as error:
            raise ConfigError(
                "private_key_file, certificate_file or client_ca_file cannot be read: "
                f"{error.strerror}."
            ) from None
