"""Routes, methods and headers of the inference API."""

from __future__ import annotations

from contract.rows import ANY, UUID4, Differs, Expect, Has, Like, Row, case, error, status

NOT_FOUND = error(
    404,
    "ResourceNotFoundException",
    "Requested resource is not found, please refer to API document.",
)
NOT_ALLOWED = error(
    405,
    "MethodNotAllowedException",
    "Requested method is not allowed, please refer to API document.",
)
BAD_HTTP = error(400, "BadRequestException", "Invalid HTTP message.")
NO_MODEL = error(404, "ModelNotFoundException", "Model not found: nope")
NO_VERSION = error(
    404,
    "ModelVersionNotFoundException",
    "Model version: 9.9 does not exist for model: telling",
)
NO_CACHE = {
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
TOLD = Expect(200, json=Has({"data": ANY}))
KEPT_OPEN = "an error concerns its own request only; the connection is kept"
LONGER = "a request line may have 8,190 bytes, not 4,096"
OF_VERSIONS = "the protocol lets a request name a version, and so do its clients"
PROBES = "probes that tell the truth; TorchServe has the last ones only with OIP, as constants"
OWN_ID = "a client's own usable request id is kept, so that it can be found in the logs"


def ping(method: str, target: str) -> Row:
    return Row(method, target, status("Healthy"))


def told(method: str, target: str, torchserve: Differs | None = None, **fields: object) -> Row:
    expect = Expect(200, json=Has(fields or {"data": ANY}))
    return Row(method, target, expect, body=b"x", torchserve=torchserve)


CASES = (
    case(
        "ping answers on any method and below its path",
        *(ping(method, "/ping") for method in ("GET", "POST", "PUT", "DELETE", "PATCH")),
        ping("GET", "/ping/"),
        ping("GET", "/ping/x/y"),
        ping("GET", "/ping?x=1"),
        Row(
            "GET",
            "/ping",
            Expect(
                200,
                body=b'{\n  "status": "Healthy"\n}\n',
                headers={"content-type": "application/json", "content-length": "26"},
            ),
        ),
        Row("HEAD", "/ping", Expect(200, body=b"", headers={"content-length": "26"})),
    ),
    case(
        "a prediction has no reason phrase and no content type",
        Row(
            "POST",
            "/predictions/telling",
            Expect(
                200,
                reason="",
                headers={
                    **NO_CACHE,
                    "content-type": None,
                    "server": None,
                    "date": None,
                    "connection": "keep-alive",
                    "x-request-id": Like(UUID4),
                },
            ),
            body=b"x",
        ),
    ),
    case(
        "predictions take any method",
        *(
            Row(method, "/predictions/telling", Expect(200, json=Has({"data": ANY})), body=b"x")
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        ),
        Row(
            "HEAD",
            "/predictions/telling",
            Expect(200, body=b"", headers={"content-length": Like("[1-9][0-9]+")}),
        ),
        Row(
            "GET",
            "/predictions/telling",
            Expect(200, json=Has({"data": {"body": {"bytearray": ""}}})),
        ),
    ),
    case(
        "a version may be named",
        told("POST", "/predictions/telling/1.0"),
        told("POST", "/predictions/telling/1.0/"),
        Row("POST", "/predictions/telling/9.9", NO_VERSION, body=b"x"),
        Row("POST", "/predictions/nope", NO_MODEL, body=b"x"),
        Row("POST", "/predictions/nope/1.0", NO_MODEL, body=b"x"),
        Row("POST", "/predictions//1.0", error(404, "ModelNotFoundException", "Model not found: ")),
    ),
    case(
        "what follows the version is the url path",
        told(
            "POST",
            "/predictions/telling/1.0/a/b",
            headers=Has({"url_path": "a/b", "explain": "False"}),
        ),
        told(
            "POST",
            "/predictions/telling/1.0/a%20b",
            headers=Has({"url_path": "a b"}),
        ),
        told("POST", "/predictions/telling", headers=Has({"url_path": "", "explain": "False"})),
        told("POST", "/predictions/telling/1.0/a%2Fb", headers=Has({"url_path": "a/b"})),
    ),
    case(
        "explanations are predictions with a header",
        told("POST", "/explanations/telling", headers=Has({"explain": "True", "url_path": ""})),
        told("POST", "/explanations/telling/1.0/x", headers=Has({"url_path": "x"})),
        Row("POST", "/explanations/nope", NO_MODEL, body=b"x"),
        Row("POST", "/explanations", NOT_FOUND, body=b"x"),
    ),
    case(
        "KServe's paths predict",
        told("POST", "/v1/models/telling:predict", headers=Has({"explain": "False"})),
        told("POST", "/v1/models/telling:explain", headers=Has({"explain": "True"})),
        told("POST", "/v2/models/telling/infer", headers=Has({"explain": "False"})),
        told("POST", "/v2/models/telling/explain", headers=Has({"explain": "True"})),
        Row("POST", "/v1/models/nope:predict", NO_MODEL, body=b"x"),
        Row("POST", "/v2/models/nope/infer", NO_MODEL, body=b"x"),
        told(
            "POST",
            "/v2/models/telling/versions/1.0/infer",
            torchserve=Differs(OF_VERSIONS, NOT_FOUND),
        ),
        Row("POST", "/v2/models/telling/versions/1.0/foo", NOT_FOUND, body=b"x"),
    ),
    case(
        "the older paths predict, with query inputs",
        told("POST", "/models/telling/invoke"),
        told("POST", "/telling/predict"),
        told("POST", "/telling/1.0/predict"),
        Row(
            "GET",
            "/telling/predict?q=one",
            Expect(200, json=Has({"data": Has({"q": {"bytearray": "one"}})})),
        ),
        Row(
            "GET",
            "/telling/1.0/predict?q=one&q=two",
            Expect(200, json=Has({"data": Has({"q": {"bytearray": "two"}})})),
        ),
        Row(
            "POST",
            "/models/telling/invoke?q=one",
            Expect(
                200,
                json=Has({"data": {"q": {"bytearray": "one"}, "body": {"bytearray": "x"}}}),
            ),
            body=b"x",
        ),
        Row("POST", "/models/telling/foo", NOT_FOUND, body=b"x"),
        Row("POST", "/nope/predict", NO_MODEL, body=b"x"),
    ),
    case(
        "invocations name their model, or mean the only one",
        told("POST", "/invocations"),
        Row(
            "POST",
            "/invocations?model_name=telling&q=1",
            Expect(
                200,
                json=Has(
                    {"data": Has({"model_name": {"bytearray": "telling"}, "q": {"bytearray": "1"}})}
                ),
            ),
            body=b"x",
        ),
        Row("POST", "/invocations?model_name=nope", NO_MODEL, body=b"x"),
    ),
    case(
        "a query is no input of a prediction that has a body",
        told("POST", "/predictions/telling?x=1", data={"body": {"bytearray": "x"}}),
    ),
    case(
        "paths that lead nowhere",
        *(
            Row("GET", target, NOT_FOUND)
            for target in (
                "/nope",
                "/predictions",
                "/predictions/",
                "/models",
                "/models/telling",
                "/v2/models/telling/foo",
                "/v1/models",
                "/token",
            )
        ),
        Row("GET", "/", NOT_ALLOWED),
        Row("POST", "/", NOT_ALLOWED),
    ),
    case(
        "probes tell the truth",
        *(
            Row("GET", target, Expect(200, json=answer), torchserve=Differs(PROBES, NOT_FOUND))
            for target, answer in (
                ("/livez", {"live": True}),
                ("/readyz", {"ready": True}),
                ("/v2/health/live", {"live": True}),
                ("/v2/health/ready", {"ready": True}),
                ("/v2/models/telling/ready", {"name": "telling", "ready": True}),
                ("/v2/models/telling", Has({"name": "telling", "versions": ["1.0"]})),
                ("/v2", Has({"name": "flambeau"})),
            )
        ),
    ),
    case(
        "the open inference protocol tells the truth, too",
        *(
            Row("GET", target, Expect(200, json=answer), torchserve=Differs(PROBES, theirs))
            for target, answer, theirs in (
                ("/v2", Has({"name": "flambeau"}), Expect(200, json=Has({"name": "Torchserve"}))),
                (
                    "/v2/models/telling",
                    Has({"name": "telling", "versions": ["1.0"]}),
                    NOT_FOUND,
                ),
            )
        ),
        Row("GET", "/v2/health/live", Expect(200, json={"live": True})),
        Row("GET", "/v2/health/ready", Expect(200, json={"ready": True})),
        told("POST", "/v2/models/telling/infer"),
        told(
            "POST",
            "/v2/models/telling/versions/1.0/infer",
            torchserve=Differs(
                OF_VERSIONS, Expect(501, json={"error": "Model versioning is not yet supported."})
            ),
        ),
        profile="oip",
    ),
    case(
        "the API describes itself",
        Row(
            "OPTIONS",
            "/",
            Expect(
                200,
                json=Has({"openapi": Like(r"3\..*"), "paths": Has({"/ping": ANY})}),
                headers={"content-type": "application/json"},
            ),
        ),
        Row("GET", "/api-description", Expect(200, json=Has({"openapi": Like(r"3\..*")}))),
        Row("GET", "/api-description/x", NOT_FOUND),
        Row(
            "OPTIONS",
            "/predictions/telling",
            Expect(200, json=Has({"info": Has({"title": "RESTful API for: telling"})})),
        ),
        Row("OPTIONS", "/predictions/telling/1.0", Expect(200, json=Has({"info": ANY}))),
        Row("OPTIONS", "/predictions/nope", NO_MODEL),
    ),
    case(
        "a percent escape that is none",
        Row(
            "GET",
            "/predictions/%zz",
            error(
                403,
                "IllegalArgumentException",
                "invalid hex byte 'zz' at index 14 of '/predictions/%zz'",
            ),
        ),
    ),
    case(
        "what is no HTTP",
        Row(raw=b"garbage\r\n\r\n", expect=BAD_HTTP),
        Row(raw=b"GET /ping HTTP/1.1\r\nbad header\x00: x\r\n\r\n", expect=BAD_HTTP),
        Row("GET", "/" + "a" * 9000, BAD_HTTP),
        Row("GET", "/" + "a" * 5000, NOT_FOUND, torchserve=Differs(LONGER, BAD_HTTP)),
        Row("GET", "/ping", BAD_HTTP, headers={"X-Long": "a" * 9000}),
    ),
    case(
        "an error closes nothing but itself",
        Row(
            "GET",
            "/nope",
            Expect(404, headers={"connection": "keep-alive", "x-request-id": Like(UUID4)}),
            torchserve=Differs(KEPT_OPEN, Expect(404, headers={"connection": "close"})),
        ),
    ),
    case(
        "a request's id",
        Row(
            "POST",
            "/predictions/telling",
            Expect(
                200,
                headers={"x-request-id": "abc"},
                json=Has({"headers": Has({"X-Request-Id": "abc"})}),
            ),
            headers={"X-Request-Id": "abc"},
            body=b"x",
            torchserve=Differs(
                OWN_ID,
                Expect(
                    200,
                    headers={"x-request-id": Like(UUID4)},
                    json=Has({"headers": Has({"X-Request-Id": "abc"})}),
                ),
            ),
        ),
    ),
    case(
        "metrics have a listener of their own",
        Row("GET", "/metrics", NOT_FOUND),
        Row(
            "GET",
            "/metrics",
            Expect(
                200,
                headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
                body=Like(r".*Requests2XX\{.*Level=\"Host\".*"),
            ),
            port="metrics",
        ),
        Row(
            "GET",
            "/metrics?name[]=Requests2XX",
            Expect(200, body=Like(r"# HELP Requests2XX .*\n# TYPE Requests2XX counter\n.*")),
            port="metrics",
        ),
        Row("GET", "/metrics?name[]=nope", Expect(200, body=b""), port="metrics"),
        Row("POST", "/metrics", Expect(200), port="metrics"),
        Row("GET", "/metrics/x", Expect(200), port="metrics"),
        Row("GET", "/nope", NOT_FOUND, port="metrics"),
        Row("GET", "/ping", NOT_FOUND, port="metrics"),
        Row(
            "OPTIONS", "/", Expect(200, json=Has({"paths": Has({"/metrics": ANY})})), port="metrics"
        ),
    ),
)
