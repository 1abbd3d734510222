"""The way of one request through a workflow, without a clock, a loop or a worker."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.errors import InferenceError
from flambeau.frontend.jobs import Outcome, Part
from flambeau.frontend.workflow_run import WorkflowRun, combine
from flambeau.model_store.workflow_spec import parse_workflow_spec

CLIENTS = [Part("body", "text/plain", b"hello")]


def spec_of(dag):
    text = f"dag: {json.dumps(dag)}"
    return parse_workflow_spec(text, "spec.yaml", has_handler=True)


def run_of(dag):
    return WorkflowRun(spec_of(dag))


def test_the_start_gets_what_the_client_sent():
    assert run_of({"a": ["b"]}).begin(CLIENTS) == {"a": CLIENTS}


def test_a_lone_parent_gives_a_body_and_several_give_a_part_each():
    run = run_of({"a": ["b", "c"], "b": ["d"], "c": ["d"]})
    run.begin(CLIENTS)
    assert run.answered("a", Outcome(body=b"1")) == {
        "b": [Part("body", "", b"1")],
        "c": [Part("body", "", b"1")],
    }
    assert run.answered("c", Outcome(body=b"3")) == {}
    assert run.answered("b", Outcome(body=b"2")) == {
        "d": [Part("b", "", b"2"), Part("c", "", b"3")]
    }
    assert run.answered("d", Outcome(body=b"4")) == {}
    assert run.result().body == b"4"


def test_the_answer_of_one_end_is_passed_on_as_it_is():
    run = run_of({"a": ["b"]})
    run.answered("a", Outcome(body=b"1", headers=[("x", "a")]))
    answer = Outcome(status=206, reason="some", headers=[("x", "b")], body=b"2")
    run.answered("b", answer)
    assert run.result() is answer


def test_the_answers_of_several_ends_become_one_object():
    run = run_of({"a": ["b", "c", "d"]})
    run.answered("a", Outcome(body=b"1"))
    for name, body in (("d", b'{"x": null}'), ("b", b"[1, 2]"), ("c", b'"text"')):
        run.answered(name, Outcome(body=body))
    result = run.result()
    assert list(json.loads(result.body).items()) == [
        ("b", [1, 2]),
        ("c", "text"),
        ("d", {"x": None}),
    ]
    assert result.body.startswith(b'{\n  "b": [\n')


def test_an_end_among_several_must_answer_with_json():
    with pytest.raises(InferenceError, match="answer of b is not JSON") as caught:
        combine({"a": b"{}", "b": b"plain"})
    assert caught.value.status == 500


def test_a_status_that_says_failure_is_one_and_ends_the_run():
    run = run_of({"a": ["b"]})
    answer = Outcome(status=422, reason="no good", body=b"why")
    assert run.answered("a", answer) == {}
    assert run.has_failed
    assert run.result() is answer


@given(
    st.integers(1, 10).flatmap(
        lambda size: st.tuples(
            st.lists(
                st.sets(st.integers(0, 9), min_size=1, max_size=3), min_size=size, max_size=size
            ),
            st.randoms(use_true_random=False),
        )
    )
)
def test_every_node_is_asked_once_with_all_that_its_parents_said(drawn):
    chosen, random = drawn
    dag: dict[str, list[str]] = {f"n{number}": [] for number in range(len(chosen) + 1)}
    for number, parents in enumerate(chosen, start=1):
        for parent in {each % number for each in parents}:
            dag[f"n{parent}"].append(f"n{number}")
    spec = spec_of(dag)
    run = WorkflowRun(spec)
    asked: dict[str, list[Part]] = {}
    open_nodes = run.begin(CLIENTS)
    while open_nodes:
        name = random.choice(sorted(open_nodes))
        asked[name] = open_nodes.pop(name)
        ready = run.answered(name, Outcome(body=f'"{name}"'.encode()))
        assert not ready.keys() & asked.keys()
        open_nodes |= ready
    assert asked.keys() == spec.nodes.keys()
    for name, node in spec.nodes.items():
        said = [f'"{parent}"'.encode() for parent in node.parents]
        names = list(node.parents) if len(said) > 1 else ["body"]
        if node.parents:
            assert asked[name] == [
                Part(key, "", each) for key, each in zip(names, said, strict=True)
            ]
    body = json.loads(run.result().body)
    leaves = list(spec.leaves)
    assert body == (leaves[0] if len(leaves) == 1 else {name: name for name in leaves})
