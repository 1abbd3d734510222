"""Makes the model store that a configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model_store.allowed_urls import AllowedUrls
from ..model_store.remote import DownloadLimits, RemoteArchives
from ..model_store.signatures import PublicKey, Signatures
from ..model_store.store import ModelStore
from .errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from ..model_store.signatures import Verify
    from .config import Config


def make_model_store(config: Config) -> ModelStore | None:
    """The model store, None where none is configured.

    Raises ConfigError for signatures that cannot be checked, StorageError if the cache of unpacked
    models cannot be used.
    """
    signatures = make_signatures(config)
    if config.model_store is None:
        return None
    return _store(config, config.model_store, signatures)


def make_workflow_store(config: Config, models: ModelStore | None) -> ModelStore | None:
    """Where workflows are: in ``models`` too, unless a folder of their own is configured.

    The same holds for their archives as for those of models. Raises as ``make_model_store``.
    """
    root = config.workflow_store
    if root is None or root == config.model_store:
        return models
    return _store(config, root, make_signatures(config))


def _store(config: Config, root: Path, signatures: Signatures | None) -> ModelStore:
    return ModelStore(
        root,
        config.model_cache_dir,
        remote=_remote_archives(config),
        signatures=signatures,
        allow_code=config.allow_archive_code,
    )


def make_signatures(config: Config) -> Signatures | None:
    """What archives must be signed with, None if they need not be; raises ConfigError."""
    if not config.require_signed:
        return None
    keys = [PublicKey.parse(text) for text in config.trusted_keys.replace(",", " ").split()]
    if not keys and config.trusted_archives is None:
        raise ConfigError(
            "require_signed=true needs trusted_keys (public keys of minisign) or trusted_archives "
            "(a file that sha256sum wrote); else no archive could be served."
        )
    if config.trusted_archives is not None and not config.trusted_archives.is_file():
        raise ConfigError(f"trusted_archives: there is no file {config.trusted_archives}.")
    return Signatures(keys, config.trusted_archives, _verifier() if keys else None)


def _verifier() -> Verify:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise ConfigError(
            "trusted_keys needs the library cryptography: pip install 'flambeau[signed]'"
        ) from None

    def verify(public: bytes, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify


def _remote_archives(config: Config) -> RemoteArchives | None:
    """What may be fetched, None where nothing may."""
    allowed = AllowedUrls(config.allowed_urls)
    if not allowed:
        return None
    return RemoteArchives(
        allowed,
        allow_private=config.allow_private_urls,
        require_sha256=config.require_sha256,
        limits=DownloadLimits(config.max_download_mb * 1_000_000, config.download_timeout),
    )
