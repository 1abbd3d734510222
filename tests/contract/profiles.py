"""The configurations of the servers that the contract is asked of: the same file for both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

STARTUP = "telling=telling.mar"


@dataclass(frozen=True)
class Profile:
    """``settings`` are the file; ``flags`` are flambeau's, ``torchserve_flags`` TorchServe's.

    With ``one_address`` inference and management share theirs.
    """

    settings: Mapping[str, object]
    flags: tuple[str, ...] = ()
    torchserve_flags: tuple[str, ...] = ("--disable-token-auth", "--enable-model-api")
    environ: Mapping[str, str] = field(default_factory=dict)
    one_address: bool = False


_QUICK = {
    "load_models": STARTUP,
    "default_workers_per_model": 1,
    "metrics_mode": "prometheus",
}

PROFILES: Mapping[str, Profile] = {
    "open": Profile({**_QUICK, "max_request_size": 100_000}),
    "shared": Profile(
        {
            **_QUICK,
            "cors_allowed_origin": "https://app.example",
            "cors_allowed_methods": "GET, POST",
            "cors_allowed_headers": "X-Custom",
        },
        one_address=True,
    ),
    "json": Profile({**_QUICK, "service_envelope": "json"}),
    "kserve": Profile({**_QUICK, "service_envelope": "kserve"}),
    "kservev2": Profile({**_QUICK, "service_envelope": "kservev2"}),
    "oip": Profile({**_QUICK, "ts_open_inference_protocol": "true"}),
    "tokens": Profile(
        {**_QUICK, "disable_token_authorization": "false", "enable_model_api": "false"},
        torchserve_flags=(),
    ),
    "raw": Profile({**_QUICK, "decode_input_request": "false"}),
}
