"""Every method of every gRPC service, asked with each key, for each way to ask for keys."""

from __future__ import annotations

import json

import grpc
import pytest
from grpc_client import NAMES

from flambeau.frontend.access import Scope
from flambeau.frontend.api_keys import KeyAccess, read_keys
from flambeau.frontend.grpc.messages import service
from flambeau.frontend.tokens import TokenAccess

INFER, MANAGE = Scope.INFER, Scope.MANAGE
# Service, method, and the scope that it needs (None: open to everybody).
METHODS = [
    ("inference", "Ping", None),
    ("inference", "Predictions", INFER),
    ("inference", "StreamPredictions", INFER),
    ("inference", "StreamPredictions2", INFER),
    ("management", "DescribeModel", MANAGE),
    ("management", "ListModels", MANAGE),
    ("management", "RegisterModel", MANAGE),
    ("management", "ScaleWorker", MANAGE),
    ("management", "SetDefault", MANAGE),
    ("management", "UnregisterModel", MANAGE),
    ("open", "ServerLive", None),
    ("open", "ServerReady", None),
    ("open", "ServerMetadata", None),
    ("open", "ModelReady", INFER),
    ("open", "ModelMetadata", INFER),
    ("open", "ModelInfer", INFER),
]
# What a request must name for a key to be asked at all.
FIELDS = {
    "RegisterModel": {"url": "m.mar", "model_name": "m"},
    "ModelReady": {"name": "m"},
    "ModelMetadata": {"name": "m"},
    "ListModels": {},
    "Ping": {},
}
KEY = {scope: f"key-of-{scope.value}-0123456789" for scope in Scope}
ELSEWHERE = "key-for-another-model-0123456789"
ENTRIES = [{"name": s.value, "key": KEY[s], "scopes": [s.value]} for s in Scope]
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def refusal(client, which, method, key):
    """The code with which a key is refused, None if it is not."""
    fields = FIELDS.get(method, {"model_name": "m"})
    if method.startswith("Server"):
        fields = {}
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    streams = service(NAMES[which]).methods_by_name[method].client_streaming
    try:
        if streams:
            client.call(which, method, {**fields, "sequence_id": "s"}, metadata=metadata)
        else:
            client.call(which, method, metadata=metadata, **fields)
    except grpc.RpcError as error:
        return error.code() if error.code() in REFUSALS else None
    return None


def answers(client, keys):
    return {
        (which, method, who): refusal(client, which, method, key)
        for which, method, _ in METHODS
        for who, key in keys.items()
    }


def test_the_matrix_has_every_method():
    named = {(which, method.name) for which in NAMES for method in service(NAMES[which]).methods}
    assert named == {(which, method) for which, method, _ in METHODS}


def test_each_method_opens_to_its_scope_alone(make_client):
    access = KeyAccess(read_keys(json.dumps(ENTRIES), "test"))
    client = make_client(access, ts_open_inference_protocol=True)
    keys = {"none": None, "wrong": "flb_wrong", **KEY}

    def expected(scope, who):
        if scope in (None, who):
            return None
        return REFUSALS[0] if who in ("none", "wrong") else REFUSALS[1]

    assert answers(client, keys) == {
        (which, method, who): expected(scope, who)
        for which, method, scope in METHODS
        for who in keys
    }


def test_each_method_opens_to_torchserves_key_alone(make_client, tmp_path):
    client = make_client(TokenAccess(tmp_path, 60.0), ts_open_inference_protocol=True)
    content = json.loads((tmp_path / "key_file.json").read_text(encoding="ascii"))
    tokens = {name: value["key"] for name, value in content.items()}
    keys = {"none": None, "wrong": "wrong", **tokens}

    def expected(which, who):
        right = "management" if which == "management" else "inference"
        return None if who == right else REFUSALS[1]

    assert answers(client, keys) == {
        (which, method, who): expected(which, who) for which, method, _ in METHODS for who in keys
    }


@pytest.mark.parametrize(("which", "scope"), [("inference", INFER), ("management", MANAGE)])
def test_a_key_for_one_model_is_none_for_another(make_client, which, scope):
    entry = {"name": "a", "key": ELSEWHERE, "scopes": [scope.value], "models": ["x"]}
    client = make_client(KeyAccess(read_keys(json.dumps([entry]), "test")))
    for service_, method, needed in METHODS:
        # A list of models is refused too: it would show the others.
        if service_ == which and needed is not None and method != "StreamPredictions2":
            assert refusal(client, which, method, ELSEWHERE) is REFUSALS[1], method
