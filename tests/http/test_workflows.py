"""Workflows as clients see them, with fake models behind them."""

from __future__ import annotations

import json
import threading

import pytest

from flambeau.frontend.access import Scope
from flambeau.frontend.api_keys import KeyAccess, read_keys
from flambeau.frontend.errors import (
    DeadlineExceededError,
    InferenceError,
    QueueFullError,
    UnknownModelError,
    WorkerStartError,
)
from flambeau.frontend.jobs import Outcome
from flambeau.frontend.streams import BodyStream

DIAMOND = {"pre": ["m1", "m2"], "m1": ["agg"], "m2": ["agg"]}
MODELS = "m1: {url: one.mar, batch-size: 3, max-workers: 2}, m2: {url: two.mar}"
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."


@pytest.fixture
def diamond(house):
    assert house.add_workflow("w", DIAMOND, MODELS).status == 200
    return house


@pytest.fixture
def answering(diamond):
    """Makes nodes answer."""

    def set_answers(**answers):
        engine = diamond.engine
        submit = type(engine).submit

        def named(key, job, on_outcome):
            node = key[0].partition("__")[2]
            made = answers.get(node, Outcome(body=f'"{node}"'.encode()))
            engine.answer = lambda job: made(job) if callable(made) else made
            submit(engine, key, job, on_outcome)

        engine.submit = named

    return set_answers


def failing(error):
    return lambda job: Outcome(status=error.status, error=error)


def asked(house):
    """The nodes that were asked, in order."""
    return [key[0].partition("__")[2] for key, _ in house.engine.jobs]


def parts_of(house, node):
    (job,) = [job for key, job in house.engine.jobs if key[0] == f"w__{node}"]
    return [(part.name, part.content_type, bytes(part.body)) for part in job.parts]


def test_registering_registers_a_model_for_each_node(house):
    reply = house.add_workflow("w", DIAMOND, MODELS)
    assert reply.json == {"status": "Workflow w has been registered and scaled successfully."}
    made = {call[1].model_name: call[1] for call in house.registry.calls if call[0] == "register"}
    assert list(made) == ["w__pre", "w__m1", "w__m2", "w__agg"]
    model, function = made["w__m1"], made["w__agg"]
    assert (model.url, model.handler, model.borrowed) == ("one.mar", None, None)
    assert (model.batch_size, model.max_batch_delay, model.initial_workers) == (3, 50, 2)
    assert (function.url, function.handler) == ("", "h.py:agg")
    assert (function.batch_size, function.max_batch_delay, function.initial_workers) == (1, 0, 1)
    assert (function.borrowed.model_dir / "spec.yaml").is_file()
    assert all(each.of_workflow and each.synchronous for each in made.values())


def test_what_the_call_says_holds_for_each_node(diamond):
    body = json.dumps(
        {"url": "w.war", "workflow_name": "v", "response_timeout": "7", "startup_timeout": 9}
    )
    reply = diamond.manage("POST", "/workflows", body, content_type="application/json")
    assert reply.json == {"status": "Workflow v has been registered and scaled successfully."}
    last = diamond.registry.calls[-1][1]
    assert last.model_name.startswith("v__")
    assert (last.response_timeout, last.startup_timeout) == (7, 9)


def test_workflows_are_listed_and_described(diamond):
    diamond.add_workflow("a", {"f": []})
    assert diamond.manage("GET", "/workflows?limit=1").json == {
        "nextPageToken": "1",
        "workflows": [{"workflowName": "a", "workflowUrl": "a.war"}],
    }
    assert diamond.manage("GET", "/workflows?limit=3&next_page_token=1").json == {
        "workflows": [{"workflowName": "w", "workflowUrl": "w.war"}]
    }
    for target in ("/workflows/w", "/workflows/w/more"):
        assert diamond.manage("GET", target).json == [
            {
                "workflowName": "w",
                "workflowUrl": "w.war",
                "minWorkers": 1,
                "maxWorkers": 1,
                "batchSize": 1,
                "maxBatchDelay": 50,
                "workflowDag": "{pre=[m1, m2], m1=[agg], m2=[agg]}",
            }
        ]


def test_unregistering_removes_the_models_and_the_archive(diamond, tmp_path):
    reply = diamond.manage("DELETE", "/workflows/w")
    assert reply.json == {"status": 'Workflow "w" unregistered'}
    removed = [call[1] for call in diamond.registry.calls if call[0] == "unregister"]
    assert removed == ["w__pre", "w__m1", "w__m2", "w__agg"]
    assert list((tmp_path / "cache").iterdir()) == []
    reply = diamond.manage("DELETE", "/workflows/w")
    assert (reply.status, reply.json["type"]) == (404, "WorkflowNotFoundException")


def test_a_node_that_is_gone_already_is_no_obstacle(diamond):
    diamond.registry.error = UnknownModelError("w__m1")
    assert diamond.manage("DELETE", "/workflows/w").status == 200


@pytest.mark.parametrize(
    ("method", "target", "status", "kind", "message"),
    [
        ("POST", "/workflows", 400, "BadRequestException", "Parameter url is required."),
        ("POST", "/workflows?url=x.war", 404, "WorkflowNotFoundException",
         "Workflow not found in workflow store: x.war"),
        ("POST", "/workflows?url=w.war", 409, "ConflictStatusException",
         "Workflow w is already registered."),
        ("POST", "/workflows?url=w.war&startup_timeout=soon", 400, "BadRequestException",
         "Parameter startup_timeout must be a whole number, got 'soon'."),
        ("GET", "/workflows/x", 404, "WorkflowNotFoundException", "Workflow not found: x"),
        ("PUT", "/workflows/w", 405, "MethodNotAllowedException", NOT_ALLOWED),
        ("DELETE", "/workflows", 405, "MethodNotAllowedException", NOT_ALLOWED),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_as_torchserve_does(
    diamond, method, target, status, kind, message
):
    reply = diamond.manage(method, target)
    assert (reply.status, reply.json["type"], reply.json["message"]) == (status, kind, message)


@pytest.mark.parametrize("name", ["a%2Fb", "-", "x" * 127, "%20"])
def test_a_name_must_make_names_of_models(diamond, name):
    reply = diamond.manage("POST", f"/workflows?url=w.war&workflow_name={name}")
    assert reply.status == 400
    assert "name" in reply.json["message"]


def test_a_node_never_joins_a_model_that_is_there(house):
    house.registry.names = ("w__pre",)
    reply = house.add_workflow("w", {"pre": []})
    assert reply.status == 409
    assert reply.json["message"].startswith("A model named w__pre is already registered.")
    assert house.registry.calls == []


def test_a_registration_that_fails_half_way_leaves_nothing(house, tmp_path):
    failures = {
        "w__m1": WorkerStartError("Failed to start workers for model w__m1 version: 1.0: why"),
        "w__m2": UnknownModelError("two.mar"),
    }
    register = house.registry.register

    async def fails_for_some(registration):
        await register(registration)
        if registration.model_name in failures:
            raise failures[registration.model_name]

    house.registry.register = fails_for_some
    reply = house.add_workflow("w", DIAMOND, MODELS)
    assert (reply.status, reply.json["type"]) == (500, "WorkflowException")
    assert reply.json["message"] == (
        "Workflow w has failed to register. Failures: "
        "[Failed to start workers for model w__m1 version: 1.0: why, "
        "Workflow Node w__m2 failed to register. Details: Model not found: two.mar]"
    )
    removed = [call[1] for call in house.registry.calls if call[0] == "unregister"]
    assert removed == ["w__pre", "w__agg"]
    assert house.manage("GET", "/workflows").json == {"workflows": []}
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_server_whose_models_stay_keeps_its_workflows(make_house):
    house = make_house(enable_model_api=False)
    for method, target in (("POST", "/workflows?url=w.war"), ("DELETE", "/workflows/w")):
        assert house.manage(method, target).status == 405
    assert house.manage("GET", "/workflows").status == 200


def test_an_answer_goes_through_the_graph(diamond, answering):
    answering()
    reply = diamond.ask(
        "POST", "/wfpredict/w", b"{}", {"Content-Type": "application/json", "X-A": "1"}
    )
    assert (reply.status, reply.reason, reply.body) == (200, "OK", b'"agg"')
    assert reply.headers["Content-Type"] == "application/json"
    assert asked(diamond) == ["pre", "m1", "m2", "agg"]
    assert parts_of(diamond, "pre") == [("body", "application/json", b"{}")]
    assert parts_of(diamond, "m1") == [("body", "", b'"pre"')]
    assert parts_of(diamond, "agg") == [("m1", "", b'"m1"'), ("m2", "", b'"m2"')]
    assert {job.headers["X-A"] for _, job in diamond.engine.jobs} == {"1"}
    assert {job.id for _, job in diamond.engine.jobs} == {reply.headers["x-request-id"]}


@pytest.mark.parametrize(
    "target", ["/WFPREDICT/w", "/wfpredict/w/more/predict", "/wfpredict/w?a=b"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_the_path_is_read_as_torchserve_reads_it(diamond, answering, method, target):
    answering()
    assert diamond.ask(method, target, b"x").body == b'"agg"'


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/wfpredict/x", "WorkflowNotFoundException"),
        ("/wfpredict", "ResourceNotFoundException"),
        ("/predictions/w", "ModelNotFoundException"),
    ],
)
def test_what_is_no_workflow_is_not_found(diamond, target, kind):
    reply = diamond.ask("POST", target, b"x")
    assert (reply.status, reply.json["type"]) == (404, kind)


def test_what_the_last_handler_says_of_its_answer_holds(diamond, answering):
    answering(
        pre=Outcome(body=b"x", headers=[("x-pre", "1")]),
        agg=Outcome(201, "made", [("content-type", "image/png"), ("x-agg", "2")], b"png"),
    )
    reply = diamond.ask("POST", "/wfpredict/w", b"x")
    assert (reply.status, reply.reason, reply.body) == (201, "made", b"png")
    assert reply.headers.get_all("Content-Type") == ["image/png"]
    assert (reply.headers["x-agg"], reply.headers["x-pre"]) == ("2", None)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (InferenceError("Prediction failed", 503), 2),
        (InferenceError("Out of resources", 507), 2),
        (InferenceError("not yours", 404), 1),
        (QueueFullError("w__pre", None, 7), 1),
    ],
)
def test_the_code_and_the_words_of_a_failed_node_are_passed_on(diamond, answering, error, attempts):
    words = error.message
    answering(pre=failing(error))
    reply = diamond.ask("POST", "/wfpredict/w", b"x")
    assert (reply.status, reply.json["type"]) == (error.status, error.type)
    assert reply.json["message"].endswith(words)
    assert "Error executing pre: " in reply.json["message"]
    assert reply.headers["Retry-After"] == ("7" if isinstance(error, QueueFullError) else None)
    assert asked(diamond) == ["pre"] * attempts


def test_a_node_that_succeeds_at_the_second_attempt_has_succeeded(diamond, answering):
    outcomes = [
        Outcome(status=503, error=InferenceError("Prediction failed", 503)),
        Outcome(body=b"at last"),
    ]
    answering(pre=lambda job: outcomes.pop(0))
    assert diamond.ask("POST", "/wfpredict/w", b"x").body == b'"agg"'
    assert asked(diamond) == ["pre", "pre", "m1", "m2", "agg"]


def test_a_node_that_sets_a_status_of_failure_answers_for_the_workflow(diamond, answering):
    answering(m1=Outcome(422, "no", [("x-why", "1")], b"because"))
    reply = diamond.ask("POST", "/wfpredict/w", b"x")
    assert (reply.status, reply.reason, reply.body) == (422, "no", b"because")
    assert "agg" not in asked(diamond)


def test_each_node_has_its_time_and_is_tried_again(diamond, answering):
    answering(pre=failing(DeadlineExceededError("too late", "request")))
    reply = diamond.ask("POST", "/wfpredict/w", b"x")
    assert (reply.status, reply.json["clock"]) == (504, "node")
    assert reply.json["message"] == (
        "Error executing pre: It did not answer within 10 s (timeout-ms)."
    )
    assert [job.time_limit for _, job in diamond.engine.jobs] == [10.0, 10.0]


def test_the_clients_time_is_that_of_all_nodes_together(diamond, answering):
    answering(pre=failing(DeadlineExceededError("too late", "request")))
    reply = diamond.ask("POST", "/wfpredict/w", b"x", {"X-Request-Timeout-Ms": "900"})
    assert (reply.status, reply.json["clock"]) == (504, "request")
    assert reply.json["message"].endswith("not answered within 0.9 s (X-Request-Timeout-Ms).")
    (job,) = [job for _, job in diamond.engine.jobs]
    assert 0 < job.time_limit <= 0.9


def test_a_node_that_answers_in_pieces_is_taken_as_a_whole(diamond, answering):
    def in_pieces(job):
        stream = BodyStream()
        stream.put(b"one ")
        stream.put(b"two ")
        stream.finish(Outcome(body=b"three"))
        return Outcome(stream=stream)

    answering(pre=in_pieces, agg=in_pieces)
    assert diamond.ask("POST", "/wfpredict/w", b"x").body == b"one two three"
    assert parts_of(diamond, "m1") == [("body", "", b"one two three")]
    assert diamond.engine.abandoned == []


def test_a_node_whose_pieces_never_end_well_has_failed(diamond, answering):
    def breaks(job):
        stream = BodyStream()
        stream.put(b"one ")
        stream.finish(failing(InferenceError("no more", 409))(job))
        return Outcome(stream=stream)

    answering(pre=breaks)
    reply = diamond.ask("POST", "/wfpredict/w", b"x")
    assert (reply.status, reply.json["message"]) == (409, "Error executing pre: no more")


def test_several_ends_give_one_object(house):
    house.add_workflow("w", {"pre": ["m1", "m2"]}, MODELS)
    reply = house.ask("POST", "/wfpredict/w", b'{"a": null}')
    assert reply.json == {"m1": {"a": None}, "m2": {"a": None}}
    reply = house.ask("POST", "/wfpredict/w", b"no JSON")
    assert (reply.status, reply.json["type"]) == (500, "InternalServerException")


def test_answers_that_are_too_long_are_refused(make_house):
    house = make_house(max_response_size=30)
    house.add_workflow("w", {"pre": ["m1", "m2"]}, MODELS)
    assert house.ask("POST", "/wfpredict/w", b"{}").status == 200
    reply = house.ask("POST", "/wfpredict/w", json.dumps("x" * 20))
    assert reply.status == 500
    assert "max_response_size=30" in reply.json["message"]


def test_branches_run_at_the_same_time_and_are_abandoned_together(diamond, wait_for):
    diamond.engine.held = True
    connection = diamond.connect()
    connection.request("POST", "/wfpredict/w", b"x")
    wait_for(lambda: len(diamond.engine.jobs) == 1, "the first node")
    release(diamond, 0, Outcome(body=b"y"))
    wait_for(lambda: asked(diamond) == ["pre", "m1", "m2"], "both branches")
    connection.close()
    wait_for(lambda: len(diamond.engine.abandoned) == 2, "both are abandoned")


def test_a_failure_abandons_the_other_branch(diamond, wait_for):
    diamond.engine.held = True
    connection = diamond.connect()
    connection.request("POST", "/wfpredict/w", b"x")
    wait_for(lambda: len(diamond.engine.jobs) == 1, "the first node")
    release(diamond, 0, Outcome(body=b"y"))
    wait_for(lambda: len(diamond.engine.jobs) == 3, "both branches")
    release(diamond, 2, failing(InferenceError("no", 404))(None))
    assert connection.getresponse().status == 404
    connection.close()
    assert diamond.engine.abandoned == [diamond.engine.jobs[1][1]]


def test_unregistering_waits_for_requests_on_their_way(diamond, wait_for):
    diamond.engine.held = True
    connection = diamond.connect()
    connection.request("POST", "/wfpredict/w", b"x")
    wait_for(lambda: len(diamond.engine.jobs) == 1, "the first node")
    replies = []
    leaving = threading.Thread(
        target=lambda: replies.append(diamond.manage("DELETE", "/workflows/w"))
    )
    leaving.start()
    wait_for(lambda: diamond.manage("GET", "/workflows/w").status == 404, "nobody new is let in")
    assert not [call for call in diamond.registry.calls if call[0] == "unregister"]
    for number, count in enumerate([3, 3, 4, 4]):
        release(diamond, number, Outcome(body=b"y"))
        wait_for(lambda count=count: len(diamond.engine.jobs) == count, "the next nodes")
    assert connection.getresponse().read() == b"y"
    connection.close()
    leaving.join(10)
    assert replies[0].status == 200


def release(house, number, outcome):
    """Let the job with this number have its outcome."""
    house.loop.call_soon_threadsafe(house.engine.waiting[number], outcome)


def test_what_was_begun_is_finished_while_the_server_drains(diamond, answering):
    def drains(job):
        diamond.draining = True
        return Outcome(body=b"y")

    answering(pre=drains)
    assert diamond.ask("POST", "/wfpredict/w", b"x").body == b'"agg"'
    assert diamond.ask("POST", "/wfpredict/w", b"x").status == 503


def test_a_key_for_a_name_is_one_for_the_workflow_of_that_name(make_house):
    everything = {"name": "all", "key": "a" * 22, "scopes": [each.value for each in Scope]}
    limited = {**everything, "name": "limited", "key": "k" * 22, "models": ["mine"]}
    house = make_house(access=KeyAccess(read_keys(json.dumps([everything, limited]), "test")))
    for key, name in (("a", "mine"), ("k", "mine"), ("k", "other")):
        headers = {"Authorization": f"Bearer {key * 22}"}
        statuses = [
            house.ask("POST", f"/wfpredict/{name}", b"x", headers).status,
            house.manage("GET", f"/workflows/{name}", **headers).status,
            house.manage("DELETE", f"/workflows/{name}", **headers).status,
            house.manage("POST", f"/workflows?url=x.war&workflow_name={name}", **headers).status,
        ]
        assert statuses == [403 if (key, name) == ("k", "other") else 404] * 4
