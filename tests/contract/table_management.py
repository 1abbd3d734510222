"""The management API."""

from __future__ import annotations

import json
from typing import Any

from contract.rows import ANY, Differs, Expect, Has, Like, Row, case, error, status
from contract.table_routes import NOT_ALLOWED, NOT_FOUND

NO_MODEL = error(404, "ModelNotFoundException", "Model not found: nope")
TYPED = "a parameter that is no number is refused, not replaced by the default"
SAID = "a failed start says why, after TorchServe's text"
KIND = "InternalServerException"
FIXED = "JSON registration without max_batch_delay means the default, not -10000"
LIMITS = "only names inside the model store are accepted until URLs are allowed"
WORDED = "what is wrong with a JSON body is the client's to mend: 400"
NEGATIVE = "a number of workers cannot be negative: 400"


def manage(method: str, target: str, expect: Expect, torchserve: Differs | None = None) -> Row:
    return Row(method, target, expect, port="management", torchserve=torchserve)


def register(expect: Expect, torchserve: Differs | None = None, **query: object) -> Row:
    target = "/models?" + "&".join(f"{name}={value}" for name, value in query.items())
    return manage("POST", target, expect, torchserve)


def register_json(expect: Expect, body: bytes, torchserve: Differs | None = None) -> Row:
    headers = {"Content-Type": "application/json"}
    return Row("POST", "/models", expect, body, headers, "management", torchserve=torchserve)


def unregister(name: str) -> Row:
    return manage("DELETE", f"/models/{name}", status(f'Model "{name}" unregistered'))


def registered(name: str, workers: int, version: str = "1.0") -> Expect:
    more = "" if workers else ". Use scale workers API to add workers for the model."
    return status(
        f'Model "{name}" Version: {version} registered with {workers} initial workers{more}'
    )


def described(**fields: Any) -> Expect:
    return Expect(200, json=[Has(fields)], headers={"content-type": "application/json"})


def missing(url: str) -> Row:
    return register(error(404, "ModelNotFoundException", f"Model not found at: {url}"), url=url)


NO_WORKER = error(
    503,
    "ServiceUnavailableException",
    'Model "m" has no worker to serve inference request. Please use scale workers API to add '
    "workers. If this is a sequence inference, please check if it is closed, or expired; or "
    "exceeds maxSequenceJobQueueSize",
)
NO_WORKER_OF_VERSION = error(
    503,
    "ServiceUnavailableException",
    Like(r'Model "m" Version 1\.0" has no worker to serve inference request\. .*'),
)
FIELDS = {
    "modelName": "telling",
    "modelVersion": "1.0",
    "modelUrl": "telling.mar",
    "runtime": "python",
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 1,
    "maxBatchDelay": 100,
    "responseTimeout": 120,
    "startupTimeout": 120,
    "maxRetryTimeoutInSec": 300,
    "clientTimeoutInMills": 0,
    "parallelType": "",
    "parallelLevel": 0,
    "deviceType": "cpu",
    "continuousBatching": False,
    "useJobTicket": False,
    "useVenv": False,
    "stateful": False,
    "sequenceMaxIdleMSec": 0,
    "sequenceTimeoutMSec": 0,
    "maxNumSequence": 0,
    "maxSequenceJobQueueSize": 0,
    "loadedAtStartup": True,
    "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
}
WORKER = {
    "id": Like("90[0-9]{2}"),
    "startTime": Like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    "status": "READY",
    "memoryUsage": Like("[0-9]+"),
    "pid": Like("[0-9]+"),
    "gpu": False,
    "gpuUsage": "N/A",
}
PAGE_OF_ONE = [{"modelName": "telling", "modelUrl": "telling.mar"}]

CASES = (
    case(
        "a model that is loaded at the start is described",
        manage("GET", "/models/telling", described(**FIELDS, workers=[Has(WORKER)])),
        manage("GET", "/models/telling/1.0", described(modelName="telling")),
        manage("GET", "/models/telling/all", described(modelVersion="1.0")),
        manage(
            "GET",
            "/models/telling/7",
            error(
                404,
                "ModelVersionNotFoundException",
                "Model version: 7 does not exist for model: telling",
            ),
        ),
        manage("GET", "/models/nope", NO_MODEL),
        manage("GET", "/models/nope/1.0", NO_MODEL),
        manage("GET", "/models/nope/all", NO_MODEL),
    ),
    case(
        "models are listed in pages",
        manage("GET", "/models", Expect(200, json={"models": PAGE_OF_ONE})),
        manage(
            "GET",
            "/models?limit=1",
            Expect(200, json={"nextPageToken": "1", "models": PAGE_OF_ONE}),
        ),
        manage("GET", "/models?limit=1&next_page_token=1", Expect(200, json={"models": []})),
        manage("GET", "/models?limit=-1", Expect(200, json={"models": PAGE_OF_ONE})),
        manage("GET", "/models?limit=500", Expect(200, json={"models": PAGE_OF_ONE})),
        manage("GET", "/models?next_page_token=-5", Expect(200, json={"models": PAGE_OF_ONE})),
        manage("GET", "/models?next_page_token=50", Expect(200, json={"models": []})),
        manage("GET", "/models?limit=0", Expect(200, json=Has({"models": []}))),
        manage(
            "GET",
            "/models?limit=abc",
            error(400, "BadRequestException", ANY),
            Differs(TYPED, Expect(200, json={"models": PAGE_OF_ONE})),
        ),
    ),
    case(
        "what is no archive cannot be registered",
        manage("POST", "/models", error(400, "BadRequestException", "Parameter url is required.")),
        register(error(404, "ModelNotFoundException", "empty url"), url=""),
        missing("missing.mar"),
        missing("sub/missing.mar"),
        *(
            register(
                error(
                    404,
                    "ModelNotFoundException",
                    f"Relative path is not allowed in url: {url}",
                ),
                url=url,
            )
            for url in ("../telling.mar", "a..b.mar", "../../etc/passwd", "x/../telling.mar")
        ),
        register(
            error(400, "BadRequestException", "Invalid RuntimeType value: foo"),
            url="telling.mar",
            model_name="m",
            runtime="foo",
        ),
    ),
    case(
        "urls are refused until they are allowed",
        *(
            register(
                error(
                    404,
                    "ModelNotFoundException",
                    f"Given URL {url} does not match any allowed URL(s)",
                ),
                Differs(LIMITS, error(400, "DownloadArchiveException", ANY)),
                url=url,
            )
            for url in ("http://127.0.0.1:9/x.mar", "file:///nonexistent/x.mar")
        ),
    ),
    case(
        "a model without workers",
        register(registered("m", 0), url="telling.mar", model_name="m", initial_workers=0),
        manage("GET", "/models/m", described(minWorkers=0, maxWorkers=0, workers=[])),
        Row("POST", "/predictions/m", NO_WORKER, b"x"),
        Row("POST", "/predictions/m/1.0", NO_WORKER_OF_VERSION, b"x"),
        unregister("m"),
        manage("GET", "/models/m", error(404, "ModelNotFoundException", "Model not found: m")),
        manage("DELETE", "/models/m", error(404, "ModelNotFoundException", "Model not found: m")),
    ),
    case(
        "a model with workers",
        register(registered("m", 1), url="telling.mar", model_name="m", initial_workers=1),
        manage(
            "GET",
            "/models/m",
            described(loadedAtStartup=False, workers=[Has(WORKER)]),
        ),
        Row("POST", "/predictions/m", Expect(200), b"x"),
        register(
            error(
                409,
                "ConflictStatusException",
                "Model version 1.0 is already registered for model m",
            ),
            url="telling.mar",
            model_name="m",
            initial_workers=1,
        ),
        unregister("m"),
    ),
    case(
        "a folder before the archive's name does not matter",
        register(
            registered("m", 0), url="/some/where/telling.mar", model_name="m", initial_workers=0
        ),
        unregister("m"),
    ),
    case(
        "the default number of workers is the configured one",
        register(registered("m", 1), url="telling.mar", model_name="m"),
        unregister("m"),
    ),
    case(
        "registration in the background",
        register(
            status("Processing worker updates...", 202),
            url="telling.mar",
            model_name="m",
            initial_workers=1,
            synchronous="false",
        ),
        manage(
            "PUT",
            "/models/m?min_worker=1&synchronous=true",
            status("Workers scaled to 1 for model: m"),
        ),
        unregister("m"),
    ),
    case(
        "settings of the call",
        register(
            registered("m", 0),
            url="telling.mar",
            model_name="m",
            batch_size=4,
            max_batch_delay=200,
            response_timeout=9,
            startup_timeout=8,
            initial_workers=0,
        ),
        manage(
            "GET",
            "/models/m",
            described(batchSize=4, maxBatchDelay=200, responseTimeout=9, startupTimeout=8),
        ),
        unregister("m"),
    ),
    case(
        "settings of the archive",
        register(registered("m", 0), url="configured.mar", model_name="m", initial_workers=0),
        manage("GET", "/models/m", described(batchSize=3, maxBatchDelay=7, responseTimeout=33)),
        unregister("m"),
    ),
    case(
        "a call beats the archive",
        register(
            registered("m", 0),
            url="configured.mar",
            model_name="m",
            batch_size=5,
            response_timeout=9,
            initial_workers=0,
        ),
        manage(
            "GET",
            "/models/m",
            described(batchSize=5, responseTimeout=9),
            Differs(
                "the register call beats the archive, timeouts included",
                described(batchSize=5, responseTimeout=33),
            ),
        ),
        unregister("m"),
    ),
    case(
        "registration by JSON",
        register_json(
            registered("m", 0),
            json.dumps(
                {"url": "telling.mar", "model_name": "m", "batch_size": 2, "initial_workers": 0}
            ).encode(),
        ),
        manage(
            "GET",
            "/models/m",
            described(batchSize=2, maxBatchDelay=100),
            Differs(FIXED, described(batchSize=2, maxBatchDelay=-10000)),
        ),
        unregister("m"),
        register_json(
            registered("m", 0),
            b'{"url": "telling.mar", "model_name": "m", "batch_size": "2", "initial_workers": 0, '
            b'"synchronous": "true", "unknown": 1}',
        ),
        unregister("m"),
        register_json(
            registered("m", 0),
            b"{'url': 'telling.mar', 'model_name': 'm', 'initial_workers': '0'}",
        ),
        unregister("m"),
        register_json(
            error(400, "BadRequestException", "The request body is not valid JSON."),
            b"{nope",
            Differs(WORDED, error(500, "JsonSyntaxException", ANY)),
        ),
    ),
    case(
        "a form is no registration",
        Row(
            "POST",
            "/models",
            error(400, "BadRequestException", "Parameter url is required."),
            b"url=telling.mar",
            {"Content-Type": "application/x-www-form-urlencoded"},
            "management",
        ),
    ),
    case(
        "numbers that are none",
        register(
            error(400, "BadRequestException", ANY),
            Differs(TYPED, registered("m", 0)),
            url="telling.mar",
            model_name="m",
            batch_size="dd",
            initial_workers=0,
        ),
        manage("DELETE", "/models/m", Expect(404), Differs(TYPED, Expect(200))),
        register(
            registered("m", 0),
            url="telling.mar",
            model_name="m",
            batch_size="",
            initial_workers=0,
            response_timeout="",
        ),
        manage("PUT", "/models/m?min_worker=0&max_worker=&timeout=", Expect(202)),
        unregister("m"),
    ),
    case(
        "a model that cannot be loaded",
        register(
            error(
                500,
                KIND,
                Like(r"Failed to start workers for model broken version: 1\.0: .*"),
            ),
            Differs(
                SAID, error(500, KIND, "Failed to start workers for model broken version: 1.0")
            ),
            url="broken.mar",
            initial_workers=1,
        ),
        manage(
            "GET",
            "/models/broken",
            error(404, "ModelNotFoundException", "Model not found: broken"),
            Differs("the failed model is gone when the answer comes", Expect(None)),
        ),
    ),
    case(
        "scaling",
        register(registered("m", 1), url="telling.mar", model_name="m", initial_workers=1),
        manage(
            "PUT",
            "/models/m?min_worker=2&synchronous=true",
            status("Workers scaled to 2 for model: m"),
        ),
        manage(
            "GET", "/models/m", described(minWorkers=2, maxWorkers=2, workers=[Has(WORKER)] * 2)
        ),
        manage(
            "PUT",
            "/models/m/1.0?min_worker=1&synchronous=true",
            status("Workers scaled to 1 for model: m, version: 1.0"),
        ),
        manage("PUT", "/models/m", status("Processing worker updates...", 202)),
        manage("PUT", "/models/m?min_worker=1", status("Processing worker updates...", 202)),
        manage(
            "PUT",
            "/models/m?min_worker=2&max_worker=1",
            error(400, "BadRequestException", "max_worker cannot be less than min_worker."),
        ),
        manage("PUT", "/models/nope?min_worker=1", NO_MODEL),
        manage(
            "PUT",
            "/models/m/9?min_worker=1",
            error(
                404,
                "ModelVersionNotFoundException",
                "Model version: 9 does not exist for model: m",
            ),
        ),
        manage(
            "PUT",
            "/models/m?min_worker=-1",
            error(400, "BadRequestException", ANY),
            Differs(NEGATIVE, error(500, "IndexOutOfBoundsException", ANY)),
        ),
        manage(
            "PUT",
            "/models/m?min_worker=1&synchronous=true",
            status("Workers scaled to 1 for model: m"),
        ),
        unregister("m"),
    ),
    case(
        "scaling to nothing",
        register(registered("m", 1), url="telling.mar", model_name="m", initial_workers=1),
        manage(
            "PUT",
            "/models/m?min_worker=0&synchronous=true",
            status("Workers scaled to 0 for model: m"),
        ),
        manage("GET", "/models/m", described(minWorkers=0, workers=[])),
        Row("POST", "/predictions/m", NO_WORKER, b"x"),
        unregister("m"),
    ),
    case(
        "two versions of a model",
        register(registered("telling", 1, "2.0"), url="telling2.mar", initial_workers=1),
        manage("GET", "/models/telling", described(modelVersion="1.0")),
        manage("GET", "/models/telling/2.0", described(modelVersion="2.0")),
        manage("GET", "/models/telling/all", Expect(200, json=[ANY, ANY])),
        Row("POST", "/predictions/telling/2.0", Expect(200), b"x"),
        manage(
            "DELETE",
            "/models/telling",
            error(
                403,
                "InvalidModelVersionException",
                "Cannot remove default version for model telling",
            ),
        ),
        manage(
            "PUT",
            "/models/telling/2.0/set-default",
            status('Default version successfully updated for model "telling" to "2.0"'),
        ),
        manage("GET", "/models/telling", described(modelVersion="2.0")),
        manage(
            "PUT",
            "/models/telling/9/set-default",
            error(
                404,
                "ModelVersionNotFoundException",
                "Model version 9 does not exist for model telling",
            ),
        ),
        manage("PUT", "/models/nope/1.0/set-default", NO_MODEL),
        manage("PUT", "/models/telling/1.0/set-default", status(ANY)),
        manage("DELETE", "/models/telling/2.0", status('Model "telling" unregistered')),
        manage("GET", "/models/telling/2.0", Expect(404)),
    ),
    case(
        "methods that are not allowed",
        *(
            manage(method, target, NOT_ALLOWED)
            for method, target in (
                ("PUT", "/models"),
                ("DELETE", "/models"),
                ("PATCH", "/models"),
                ("POST", "/models/telling"),
                ("PATCH", "/models/telling"),
                ("GET", "/"),
            )
        ),
    ),
    case(
        "paths that lead nowhere in the management API",
        *(
            manage("GET", target, NOT_FOUND)
            for target in ("/ping", "/metrics", "/nope", "/predictions/telling", "/token")
        ),
    ),
    case(
        "the management API describes itself",
        manage(
            "OPTIONS",
            "/",
            Expect(200, json=Has({"openapi": Like(r"3\..*"), "paths": Has({"/models": ANY})})),
        ),
        manage("GET", "/api-description", Expect(200, json=Has({"openapi": ANY}))),
        manage("OPTIONS", "/models/telling", Expect(200, json=Has({"info": ANY}))),
        manage("OPTIONS", "/models/nope", NO_MODEL),
    ),
    case(
        "a KServe client asks whether a model is ready",
        manage("GET", "/v1/models/telling", Expect(200, json={"name": "telling", "ready": True})),
        manage("GET", "/v1/models/nope", NO_MODEL),
        manage("POST", "/v1/models/telling", NOT_ALLOWED),
    ),
    case(
        "a model tells about itself",
        register(registered("describing", 1), url="describing.mar", initial_workers=1),
        manage(
            "GET",
            "/models/describing?customized=true",
            described(customizedMetadata={"about": "this model", "rows": 1}),
        ),
        manage(
            "GET",
            "/models/describing/1.0?customized=true",
            described(customizedMetadata={"about": "this model", "rows": 1}),
        ),
        Row("POST", "/predictions/describing", Expect(200, body=b"prediction"), b"x"),
        manage("PUT", "/models/describing?min_worker=0&synchronous=true", Expect(200)),
        manage(
            "GET",
            "/models/describing?customized=true",
            error(
                503,
                "ServiceUnavailableException",
                'Model "describing" has no worker to serve describe request. '
                "Please use scale workers API to add workers.",
            ),
        ),
        unregister("describing"),
    ),
)
