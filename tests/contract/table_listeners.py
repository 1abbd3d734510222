"""One address for inference and management, and what pages of other origins are told."""

from __future__ import annotations

from contract.rows import ANY, Differs, Expect, Has, Row, case, error

CORS = {
    "access-control-allow-origin": "https://app.example",
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "X-Custom",
}
NO_ROUTE = error(
    404,
    "ResourceNotFoundException",
    "Requested resource is not found, please refer to API document.",
)
NO_METHOD = error(
    405,
    "MethodNotAllowedException",
    "Requested method is not allowed, please refer to API document.",
)
DESCRIBED = Has({"paths": Has({"/ping": ANY, "/predictions/{model_name}": ANY, "/models": ANY})})
HIDDEN = "a model named predict can be managed at a shared address, too"

CASES = (
    case(
        "one address serves both interfaces",
        Row("POST", "/predictions/telling", Expect(200, json=Has({"data": ANY})), b"x"),
        Row("POST", "/models/telling/invoke", Expect(200, json=Has({"data": ANY})), b"x"),
        Row("GET", "/ping", Expect(200, json={"status": "Healthy"})),
        Row("GET", "/models", Expect(200, json=Has({"models": ANY}))),
        Row("GET", "/models/telling", Expect(200)),
        Row("GET", "/v1/models/telling", Expect(200, json={"name": "telling", "ready": True})),
        Row("PUT", "/models/telling/1.0/set-default", Expect(200)),
        Row("GET", "/metrics", Expect(200, body=ANY)),
        Row("GET", "/metrics", Expect(200, body=ANY), port="metrics"),
        Row("OPTIONS", "/", Expect(200, json=DESCRIBED)),
        Row("GET", "/api-description", Expect(200, json=DESCRIBED)),
        profile="shared",
    ),
    case(
        "one address refuses what both do not know",
        Row("GET", "/", NO_METHOD),
        Row("PATCH", "/models", NO_METHOD),
        Row("GET", "/nope", NO_ROUTE),
        Row("GET", "/models/x", error(404, "ModelNotFoundException", "Model not found: x")),
        Row("POST", "/models/x/invoke", error(404, "ModelNotFoundException", ANY), b"x"),
        Row(
            "GET",
            "/models/predict",
            error(404, "ModelNotFoundException", "Model not found: predict"),
            torchserve=Differs(HIDDEN, NO_ROUTE),
        ),
        profile="shared",
    ),
    case(
        "every answer tells other origins what they may do",
        Row("POST", "/predictions/telling", Expect(200, headers=CORS), b"x"),
        Row("OPTIONS", "/predictions/telling", Expect(200, headers=CORS)),
        Row("GET", "/nope", Expect(404, headers=CORS)),
        Row("GET", "/predictions/%zz", Expect(403, headers=CORS)),
        Row(expect=Expect(400, headers=CORS), raw=b"garbage\r\n\r\n"),
        Row("GET", "/metrics", Expect(200, headers=CORS), port="metrics"),
        profile="shared",
    ),
)
