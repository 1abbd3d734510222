"""Specifications of workflows: what is read, what is refused, and in which order nodes run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.model_store.errors import InvalidDAGError, InvalidWorkflowError
from flambeau.model_store.workflow_spec import (
    FUNCTION_SETTINGS,
    MAX_NODES,
    NodeSettings,
    parse_workflow_spec,
    sort_nodes,
)

DIAMOND = """
models:
  min-workers: 1
  max-workers: 2
  batch-size: 4
  max-batch-delay: 20
  retry-attempts: 3
  timeout-ms: 500
  m1:
    url: one.mar
  m2:
    url: two.mar
    batch-size: 1
    max-workers: 1
dag:
  pre: [m1, m2]
  m1: [agg]
  m2: [agg]
"""


def parse(text, has_handler=True):
    return parse_workflow_spec(text, "spec.yaml", has_handler=has_handler)


def test_a_node_has_the_settings_for_all_unless_it_has_its_own():
    spec = parse(DIAMOND)
    common = NodeSettings(1, 2, 4, 20, 3, 500)
    assert spec.settings == spec.nodes["m1"].settings == common
    assert spec.nodes["m2"].settings == NodeSettings(1, 1, 1, 20, 3, 500)
    assert spec.nodes["pre"].settings == spec.nodes["agg"].settings == FUNCTION_SETTINGS
    assert [node.url for node in spec.nodes.values()] == [None, "one.mar", "two.mar", None]
    assert spec.warnings == ()


def test_the_graph_knows_parents_children_and_ends():
    spec = parse(DIAMOND)
    assert list(spec.nodes) == ["pre", "m1", "m2", "agg"]
    assert (spec.start, spec.leaves) == ("pre", ("agg",))
    assert spec.nodes["agg"].parents == ("m1", "m2")
    assert spec.nodes["pre"].children == ("m1", "m2")
    assert spec.dag == {"pre": ("m1", "m2"), "m1": ("agg",), "m2": ("agg",)}


@pytest.mark.parametrize("children", ["[]", ""])
def test_a_workflow_may_be_one_node(children):
    spec = parse(f"models: {{m: {{url: m.mar}}}}\ndag:\n  m: {children}\n", has_handler=False)
    assert (spec.start, spec.leaves) == ("m", ("m",))


def test_functions_need_no_models():
    assert list(parse("dag: {pre: [post]}").nodes) == ["pre", "post"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("min-workers: 3", (3, 3)),
        ("max-workers: 3", (1, 3)),
        ("min-workers: 2\n  max-workers: 5", (2, 5)),
        ("min-workers: 0", (0, 1)),
        ("max-workers: 0", (0, 0)),
    ],
)
def test_workers_that_are_not_said_fit_those_that_are(given, found):
    settings = parse(f"models:\n  {given}\ndag: {{pre: []}}").settings
    assert (settings.min_workers, settings.max_workers) == found


def test_what_has_no_effect_is_said():
    spec = parse(
        "models: {m: {url: m.mar, batch_size: 2}, idle: {url: i.mar}}\ndag: {m: []}\nmore: 1\n"
    )
    assert spec.warnings == (
        "spec.yaml: models: m: the key batch_size is not known and has no effect; "
        "did you mean 'batch-size'?",
        "spec.yaml: the model idle is no node of the dag",
        "spec.yaml: the key more is not known and has no effect",
    )


@pytest.mark.parametrize(
    ("dag", "message"),
    [
        ("{}", "Not a valid DAG: the specification names no nodes."),
        ("", "Not a valid DAG: the specification names no nodes."),
        ("{a: [c], b: [c]}", "DAG should have only one start node, and has a and b."),
        ("{a: [b], b: [a]}", "DAG should have only one start node, and has none."),
        ("{a: [b], b: [b]}", "Self loop exception: b follows itself."),
        ("{a: [b], b: [c], c: [b]}", "Not a valid DAG: b, c wait for each other."),
        ("{a: [b, b]}", "loop exception: b follows a more than once."),
        (f"{{a: [{', '.join(f'n{i}' for i in range(MAX_NODES))}]}}", "Not a valid DAG: it has"),
    ],
)
def test_a_graph_that_cannot_run_is_refused_in_torchserves_words(dag, message):
    with pytest.raises(InvalidDAGError) as caught:
        parse(f"dag: {dag}\n")
    assert caught.value.message.startswith(message)
    assert (caught.value.status, caught.value.type) == (400, "InvalidDAGException")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dag: [", "Failed to parse yaml. spec.yaml: line"),
        ("- a", "Failed to parse yaml. spec.yaml: ['a'] is not allowed at the top"),
        ("models: 3", "spec.yaml: models: 3 is not allowed; give keys with values"),
        ("dag: [a]", "spec.yaml: dag: ['a'] is not allowed; give keys with values"),
        ("dag: {a: b}", "spec.yaml: dag: a: 'b' is not allowed; give a list of nodes"),
        ("dag: {a: [1]}", "spec.yaml: dag: a: name of a node: 1 is not allowed"),
        ("dag: {'../a': []}", "spec.yaml: dag: name of a node: '../a' is not allowed"),
        ("models: {m: {}}", "spec.yaml: models: m: url: None is not allowed"),
        ("models: {m: {url: 3}}", "spec.yaml: models: m: url: 3 is not allowed"),
        ("models: {batch_size: 2}", "spec.yaml: models: batch_size: 2 is not allowed; give a "
         "model: its url, and settings (did you mean batch-size?)"),
        ("models: {batch-size: many}", "spec.yaml: models: batch-size: 'many' is not allowed"),
        ("models: {batch-size: 0}", "spec.yaml: models: batch-size: 0 is not allowed"),
        ("models: {timeout-ms: yes}", "spec.yaml: models: timeout-ms: True is not allowed"),
        ("models: {min-workers: 2, max-workers: 1}", "spec.yaml: models: min-workers: 2 is not"),
        ("dag: {my-step: []}", "Node my-step is not among the models, and no function can"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_place(text, message):
    with pytest.raises(InvalidWorkflowError) as caught:
        parse(text)
    assert caught.value.message.startswith(message)
    assert caught.value.status == 400


def test_a_node_that_is_neither_model_nor_function_is_refused():
    with pytest.raises(InvalidWorkflowError, match="has no handler that it could be a function of"):
        parse("models: {m: {url: m.mar}}\ndag: {pre: [m]}", has_handler=False)


@st.composite
def graphs(draw):
    """Graphs with one start, their nodes in a random order."""
    size = draw(st.integers(1, 12))
    children = {f"n{number}": [] for number in range(size)}
    for number in range(1, size):
        parents = draw(st.sets(st.integers(0, number - 1), min_size=1, max_size=4))
        for parent in parents:
            children[f"n{parent}"].append(f"n{number}")
    names = draw(st.permutations(list(children)))
    return {name: tuple(children[name]) for name in names}


@given(graphs())
def test_every_node_comes_once_and_after_its_parents(dag):
    order = sort_nodes(dag)
    assert sorted(order) == sorted(dag)
    for parent, children in dag.items():
        assert all(order.index(parent) < order.index(child) for child in children)


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from("abcde")).map(tuple)))
def test_any_graph_is_sorted_or_refused(dag):
    try:
        order = sort_nodes(dag)
    except InvalidDAGError:
        return
    assert set(order) == {*dag, *(child for children in dag.values() for child in children)}
