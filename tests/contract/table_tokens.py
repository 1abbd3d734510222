"""Tokens, and a server that does not let models be registered."""

from __future__ import annotations

from contract.exchange import key_of
from contract.rows import ANY, Differs, Expect, Has, Row, case, error, status

DENIED = error(
    400,
    "InvalidKeyException",
    "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
)
NOT_RENEWED = error(
    400,
    "InvalidKeyException",
    "Token Authentication failed. Token either incorrect, expired, or not provided correctly",
)
NOT_FOUND = error(404, "ResourceNotFoundException", ANY)
NOT_ALLOWED = error(405, "MethodNotAllowedException", ANY)
DOCUMENT = Expect(200, json=Has({"openapi": "3.0.1"}))
HEALTHY = status("Healthy")
RENEWED = Expect(200, body=b"\n", headers={"content-type": "application/json"})
PROPER_ROUTE = "/token is a path of its own, not a part of any request"


def asked(expect: Expect, target: str = "/ping", authorization: str | None = None) -> Row:
    headers = {} if authorization is None else {"Authorization": authorization}
    return Row("GET", target, expect, headers=headers)


def managed(method: str, target: str, expect: Expect, name: str | None) -> Row:
    headers = {} if name is None else {"Authorization": f"Bearer {key_of(name)}"}
    return Row(method, target, expect, headers=headers, port="management")


INFERENCE, MANAGEMENT, API = (key_of(name) for name in ("inference", "management", "API"))

CASES = (
    case(
        "tokens: what is asked for on the inference listener",
        asked(DENIED),
        asked(DENIED, "/ping/more"),
        asked(DENIED, "/nope"),
        asked(DENIED, "/predictions/telling"),
        asked(DENIED, "/api-description/more"),
        asked(NOT_FOUND, "/nope", f"Bearer {INFERENCE}"),
        asked(NOT_FOUND, "/token", f"Bearer {INFERENCE}"),
        asked(error(403, "IllegalArgumentException", ANY), "/%zz"),
        asked(NOT_ALLOWED, "/"),
        asked(DOCUMENT, "/api-description"),
        Row("OPTIONS", "/", DOCUMENT),
        Row("OPTIONS", "/api-description", DOCUMENT),
        Row("OPTIONS", "/predictions/telling", DENIED),
        profile="tokens",
    ),
    case(
        "tokens: how the header is read",
        asked(HEALTHY, "/ping", f"Bearer {INFERENCE}"),
        asked(HEALTHY, "/ping", f"Bearer    {INFERENCE}"),
        asked(HEALTHY, "/ping", f"Bearer\t{INFERENCE}"),
        asked(DENIED, "/ping", f"bearer {INFERENCE}"),
        asked(DENIED, "/ping", f"xBearer {INFERENCE}"),
        asked(DENIED, "/ping", f"Bearer {INFERENCE} more"),
        asked(DENIED, "/ping", INFERENCE),
        asked(DENIED, "/ping", "Bearer"),
        asked(DENIED, "/ping", "Bearer wrong"),
        asked(DENIED, "/ping", f"Bearer {MANAGEMENT}"),
        asked(DENIED, "/ping", f"Bearer {API}"),
        profile="tokens",
    ),
    case(
        "tokens: what is asked for on the management listener",
        managed("GET", "/models", DENIED, None),
        managed("GET", "/models", DENIED, "inference"),
        managed("GET", "/models", DENIED, "API"),
        managed("GET", "/models", Expect(200, json=Has({"models": ANY})), "management"),
        managed("OPTIONS", "/models/telling", DENIED, None),
        managed("OPTIONS", "/", DOCUMENT, None),
        managed("POST", "/models?url=x.mar", DENIED, None),
        Row("GET", "/metrics", Expect(200), port="metrics"),
        profile="tokens",
    ),
    case(
        "tokens: without the model API models are neither registered nor removed",
        managed("POST", "/models?url=telling.mar", NOT_ALLOWED, "management"),
        managed("DELETE", "/models/telling", NOT_ALLOWED, "management"),
        managed("DELETE", "/models/nope/1.0", NOT_ALLOWED, "management"),
        managed("PATCH", "/models", NOT_ALLOWED, "management"),
        managed(
            "PUT",
            "/models/nope?min_worker=1",
            error(404, "ModelNotFoundException", "Model not found: nope"),
            "management",
        ),
        profile="tokens",
    ),
    case(
        "tokens: a key is renewed with the key named API",
        managed("GET", "/token", NOT_RENEWED, None),
        managed("GET", "/token", NOT_RENEWED, "API"),
        managed("GET", "/token?type=inference", NOT_RENEWED, "management"),
        managed("GET", "/token?type=foo", NOT_RENEWED, "API"),
        managed("GET", "/token?type=API", NOT_RENEWED, "API"),
        managed("GET", "/token?type=INFERENCE", NOT_RENEWED, "API"),
        managed("GET", "/token?type=foo&type=inference", NOT_RENEWED, "API"),
        managed("GET", "/token?type=inference", RENEWED, "API"),
        asked(HEALTHY, "/ping", f"Bearer {INFERENCE}"),
        managed("POST", "/token/?type=management", RENEWED, "API"),
        managed("GET", "/models", Expect(200), "management"),
        profile="tokens",
    ),
    case(
        "tokens: other paths with token in them renew nothing",
        Row(
            "GET",
            "/token/more?type=inference",
            DENIED,
            headers={"Authorization": f"Bearer {API}"},
            port="management",
            torchserve=Differs(PROPER_ROUTE, RENEWED),
        ),
        Row(
            "GET",
            "/models/token?type=inference",
            error(404, "ModelNotFoundException", "Model not found: token"),
            headers={"Authorization": f"Bearer {MANAGEMENT}"},
            port="management",
            torchserve=Differs(PROPER_ROUTE, NOT_RENEWED),
        ),
        profile="tokens",
    ),
)
