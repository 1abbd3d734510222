"""Workflows: registered, described, asked, unregistered."""

from __future__ import annotations

import json

from contract.rows import ANY, Differs, Expect, Has, Like, Row, case, error, status

JSON = {"Content-Type": "application/json"}
PLAIN = {"Content-Type": "text/plain"}
NOT_ALLOWED = error(405, "MethodNotAllowedException", ANY)
PASSED_ON = "the code and the words of a node that fails are the client's to see"
MISTAKE = "what is wrong with an archive is its author's mistake, and is said"
NO_SUCH = "WorkflowNotFoundException"


def managed(method: str, target: str, expect: Expect, torchserve: Differs | None = None) -> Row:
    return Row(method, target, expect, port="management", torchserve=torchserve)


def registered(name: str) -> Row:
    text = f"Workflow {name} has been registered and scaled successfully."
    return managed("POST", f"/workflows?url={name}.war", status(text))


def gone(name: str) -> Row:
    return managed("DELETE", f"/workflows/{name}", status(f'Workflow "{name}" unregistered'))


def asked(
    name: str,
    body: bytes,
    expect: Expect,
    torchserve: Differs | None = None,
    headers: dict[str, str] = PLAIN,
) -> Row:
    return Row("POST", f"/wfpredict/{name}", expect, body, headers, torchserve=torchserve)


def told(**order: object) -> bytes:
    return json.dumps(order).encode()


def refused(name: str, code: int, kind: str, message: str, torchserve: Expect) -> Row:
    differs = Differs(MISTAKE, torchserve)
    return managed("POST", f"/workflows?url={name}.war", error(code, kind, Like(message)), differs)


def same(name: str, code: int, kind: str, message: str) -> Row:
    """Refused by both; flambeau has something to add."""
    return managed("POST", f"/workflows?url={name}.war", error(code, kind, Like(message + ".*")))


CASES = (
    case(
        "workflows: registered, described, unregistered",
        managed(
            "POST", "/workflows", error(400, "BadRequestException", "Parameter url is required.")
        ),
        managed(
            "POST",
            "/workflows?url=no.war",
            error(404, NO_SUCH, "Workflow not found in workflow store: no.war"),
        ),
        managed(
            "POST",
            "/workflows?url=../chain.war",
            error(404, NO_SUCH, "Relative path is not allowed in url: ../chain.war"),
        ),
        registered("chain"),
        managed(
            "POST",
            "/workflows?url=chain.war",
            error(409, "ConflictStatusException", "Workflow chain is already registered."),
        ),
        managed(
            "GET",
            "/workflows",
            Expect(json={"workflows": [{"workflowName": "chain", "workflowUrl": "chain.war"}]}),
        ),
        managed(
            "GET",
            "/workflows?limit=1",
            Expect(json=Has({"nextPageToken": "1"})),
        ),
        managed(
            "GET",
            "/workflows/chain",
            Expect(
                json=[
                    {
                        "workflowName": "chain",
                        "workflowUrl": "chain.war",
                        "minWorkers": 1,
                        "maxWorkers": 1,
                        "batchSize": 1,
                        "maxBatchDelay": 50,
                        "workflowDag": "{first=[m], m=[last]}",
                    }
                ]
            ),
        ),
        managed("GET", "/models/chain__m", Expect(json=[Has({"modelUrl": "telling.mar"})])),
        managed("GET", "/models/chain__last", Expect(json=[Has({"maxBatchDelay": 0})])),
        managed("PUT", "/workflows/chain", NOT_ALLOWED),
        managed("POST", "/workflows/chain", NOT_ALLOWED),
        managed("DELETE", "/workflows", NOT_ALLOWED),
        gone("chain"),
        managed("GET", "/models/chain__m", error(404, "ModelNotFoundException", ANY)),
        managed("GET", "/workflows/chain", error(404, NO_SUCH, "Workflow not found: chain")),
        managed("DELETE", "/workflows/chain", error(404, NO_SUCH, "Workflow not found: chain")),
    ),
    case(
        "workflows: archives that cannot be",
        same("starts", 400, "InvalidDAGException", "DAG should have only one start node"),
        same("self", 400, "InvalidDAGException", "Self loop exception"),
        same("cycle", 400, "InvalidDAGException", "Not a valid DAG"),
        same(
            "absent",
            500,
            "WorkflowException",
            r"Workflow absent has failed to register\. Failures: \[Workflow Node absent__m failed "
            r"to register\. Details: Model not found at: no\.mar\]",
        ),
        same(
            "failing",
            500,
            "WorkflowException",
            r"Workflow failing has failed to register\. Failures: \[Failed to start workers for "
            r"model failing__m version: 1\.0",
        ),
        refused("empty", 400, "InvalidDAGException", "Not a valid DAG: .*", Expect(500)),
        refused("wrong", 400, "InvalidWorkflowException", ".*batch-size: 'two'.*", Expect(500)),
    ),
    case(
        "workflows: what nodes get, and what comes back",
        registered("chain"),
        asked(
            "chain",
            b'{"a": 1}',
            Expect(
                json={
                    "parts": {"body": Like(r".*\"a\\*\": 1.*")},
                    "about": {"name": "chain__last", "manifest": None, "rows": 1},
                    "kind": {"content-type": ""},
                },
                reason="OK",
                headers={"content-type": "application/json"},
            ),
            headers=JSON,
        ),
        Row("GET", "/WFPREDICT/chain/more?x=y", Expect(json=Has({"kind": {"content-type": ""}}))),
        Row("POST", "/wfpredict", error(404, "ResourceNotFoundException", ANY)),
        Row("POST", "/wfpredict/no", error(404, NO_SUCH, "Workflow not found: no")),
        Row("POST", "/predictions/chain", error(404, "ModelNotFoundException", ANY)),
        gone("chain"),
        registered("ends"),
        asked("ends", b"x", Expect(json=Has({"m": Has({"data": {"body": {"bytearray": "x"}}})}))),
        gone("ends"),
    ),
    case(
        "workflows: a node that fails",
        registered("single"),
        asked(
            "single",
            told(do="raise"),
            error(503, "InternalServerException", "Error executing m: Prediction failed"),
            Differs(PASSED_ON, error(500, "InternalServerException", "Error executing m")),
            JSON,
        ),
        asked(
            "single",
            told(do="refuse", code=418, message="no coffee"),
            error(418, "InternalServerException", "Error executing m: no coffee"),
            Differs(PASSED_ON, error(500, "InternalServerException", "Error executing m")),
            JSON,
        ),
        asked(
            "single",
            told(do="status", code=404, phrase="none", value="what"),
            Expect(404, reason="none", body=b"what"),
            Differs(PASSED_ON, Expect(200, body=b"what")),
            JSON,
        ),
        asked(
            "single",
            told(do="header", name="x-mine", value="1"),
            Expect(headers={"content-type": "application/json", "x-mine": "1"}),
            Differs("headers of the last handler are kept", Expect(headers={"x-mine": None})),
            JSON,
        ),
        gone("single"),
        registered("mixed"),
        asked(
            "mixed",
            b"x",
            error(500, "InternalServerException", Like("The answer of plain is not JSON.*")),
            Differs("it names the node", error(500, "InternalServerException", ANY)),
        ),
        gone("mixed"),
    ),
)
