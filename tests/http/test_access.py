"""Every route of every listener, asked with each key, for each way to ask for keys."""

from __future__ import annotations

import json
import re
import stat

import pytest
from real_server import free_port

from flambeau.frontend.access import Scope
from flambeau.frontend.api_keys import KeyAccess, read_keys
from flambeau.frontend.tokens import TokenAccess

INFER, MANAGE, METRICS = Scope.INFER, Scope.MANAGE, Scope.METRICS
# Listener, method, path, and the scope that it needs (None: open to everybody).
ROUTES = [
    ("inference", "OPTIONS", "/", None),
    ("inference", "GET", "/api-description", None),
    ("inference", "GET", "/ping", None),
    ("inference", "GET", "/ping/more", INFER),
    ("inference", "GET", "/livez", None),
    ("inference", "GET", "/readyz", None),
    ("inference", "GET", "/v2/health/live", None),
    ("inference", "GET", "/v2/health/ready", None),
    ("inference", "GET", "/v2", INFER),
    ("inference", "GET", "/v2/models/m", INFER),
    ("inference", "GET", "/v2/models/m/ready", INFER),
    ("inference", "GET", "/v2/models/m/versions/1.0", INFER),
    ("inference", "GET", "/v2/models/m/versions/1.0/ready", INFER),
    ("inference", "POST", "/v2/models/m/infer", INFER),
    ("inference", "POST", "/v2/models/m/versions/1.0/infer", INFER),
    ("inference", "POST", "/v2/models/m/versions/1.0/explain", INFER),
    ("inference", "POST", "/v2/models/m/explain", INFER),
    ("inference", "POST", "/v1/models/m:predict", INFER),
    ("inference", "POST", "/v1/models/m:explain", INFER),
    ("inference", "POST", "/predictions/m", INFER),
    ("inference", "POST", "/predictions/m/1.0", INFER),
    ("inference", "POST", "/predictions/m/1.0/more", INFER),
    ("inference", "POST", "/%70redictions%2Fm", INFER),
    ("inference", "OPTIONS", "/predictions/m", INFER),
    ("inference", "POST", "/explanations/m", INFER),
    ("inference", "POST", "/explanations/m/1.0", INFER),
    ("inference", "POST", "/invocations?model_name=m", INFER),
    ("inference", "POST", "/models/m/invoke", INFER),
    ("inference", "POST", "/m/predict", INFER),
    ("inference", "POST", "/m/1.0/predict", INFER),
    ("inference", "POST", "/wfpredict/w", INFER),
    ("inference", "POST", "/WFpredict/w/more", INFER),
    ("inference", "GET", "/nothing", INFER),
    ("inference", "GET", "/token", INFER),
    ("management", "OPTIONS", "/", None),
    ("management", "GET", "/api-description", None),
    ("management", "GET", "/models", MANAGE),
    ("management", "POST", "/models?url=m.mar", MANAGE),
    ("management", "GET", "/models/m", MANAGE),
    ("management", "GET", "/models/m/1.0", MANAGE),
    ("management", "GET", "/models/m/all", MANAGE),
    ("management", "PUT", "/models/m?min_worker=1", MANAGE),
    ("management", "PUT", "/models/m/1.0?min_worker=1", MANAGE),
    ("management", "DELETE", "/models/m", MANAGE),
    ("management", "DELETE", "/models/m/1.0", MANAGE),
    ("management", "OPTIONS", "/models/m", MANAGE),
    ("management", "PUT", "/models/m/1.0/set-default", MANAGE),
    ("management", "GET", "/v1/models/m", MANAGE),
    ("management", "GET", "/workflows", MANAGE),
    ("management", "POST", "/workflows?url=w.war", MANAGE),
    ("management", "GET", "/workflows/w", MANAGE),
    ("management", "DELETE", "/workflows/w", MANAGE),
    ("management", "GET", "/nothing", MANAGE),
    ("management", "GET", "/ping", MANAGE),
    ("metrics", "OPTIONS", "/", None),
    ("metrics", "GET", "/api-description", None),
    ("metrics", "GET", "/metrics", METRICS),
    ("metrics", "GET", "/metrics/more", METRICS),
    ("metrics", "GET", "/nothing", METRICS),
]
OPEN_UNDER_TOKENS = {"/livez", "/readyz", "/", "/api-description"}
KEY = {scope: f"key-of-{scope.value}-0123456789" for scope in Scope}
ENTRIES = [{"name": s.value, "key": KEY[s], "scopes": [s.value]} for s in Scope]
REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"


def key_access(*entries):
    return KeyAccess(read_keys(json.dumps(entries or ENTRIES), "test"))


def bearer(key):
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def tokens_of(folder):
    content = json.loads((folder / "key_file.json").read_text(encoding="ascii"))
    return {name: value["key"] for name, value in content.items()}


def answers(house, keys):
    """Status and type of the answer by route and key, where a key decided about it."""
    found = {}
    for listener, method, target, _ in ROUTES:
        for who, key in keys.items():
            reply = house.ask(method, target, b"", bearer(key), listener)
            kind = reply.json.get("type") if reply.status in (400, 401, 403) else None
            found[listener, method, target, who] = kind
            if reply.status == 401:
                assert reply.headers["WWW-Authenticate"] == "Bearer"
    return found


def test_each_route_opens_to_its_scope_alone(make_house):
    house = make_house(access=key_access())
    keys = {"none": None, "wrong": "flb_wrong", **KEY}

    def expected(scope, who):
        if scope in (None, who):
            return None
        return "UnauthorizedException" if who in ("none", "wrong") else "ForbiddenException"

    assert answers(house, keys) == {
        (*route, who): expected(scope, who) for *route, scope in ROUTES for who in keys
    }


def test_each_route_opens_to_torchserves_key_alone(make_house, tmp_path):
    house = make_house(access=TokenAccess(tmp_path, 60.0))
    tokens = tokens_of(tmp_path)
    keys = {"none": None, "wrong": "wrong", **tokens}
    right = {INFER: "inference", MANAGE: "management"}

    def expected(listener, target, scope, who):
        if scope is METRICS or target in OPEN_UNDER_TOKENS:
            return None
        return None if who == listener else "InvalidKeyException"

    assert set(right.values()) <= set(keys)
    assert answers(house, keys) == {
        (listener, method, target, who): expected(listener, target, scope, who)
        for listener, method, target, scope in ROUTES
        for who in keys
    }


def test_without_keys_every_route_is_open(house):
    assert set(answers(house, {"none": None}).values()) == {None}


def test_the_matrix_has_every_route_of_the_api_descriptions(house):
    matrix = [(listener, target.partition("?")[0]) for listener, _, target, _ in ROUTES]
    for listener in ("inference", "management", "metrics"):
        for template in house.ask("GET", "/api-description", listener=listener).json["paths"]:
            form = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
            pattern = re.compile(re.sub(r"{[^}]*}", "[^/]+", form))
            assert any(name == listener and pattern.fullmatch(path) for name, path in matrix), (
                f"{template} of the {listener} listener is missing in ROUTES"
            )


@pytest.mark.parametrize(
    ("listener", "method", "target"),
    [
        ("inference", "POST", "/predictions/{}"),
        ("inference", "OPTIONS", "/predictions/{}"),
        ("inference", "POST", "/explanations/{}/1.0"),
        ("inference", "POST", "/invocations?model_name={}"),
        ("inference", "POST", "/models/{}/invoke"),
        ("inference", "POST", "/{}/predict"),
        ("inference", "POST", "/v1/models/{}:predict"),
        ("inference", "POST", "/v2/models/{}/infer"),
        ("inference", "GET", "/v2/models/{}"),
        ("inference", "GET", "/v2/models/{}/ready"),
        ("management", "POST", "/models?url=x.mar&model_name={}"),
        ("management", "GET", "/models/{}"),
        ("management", "GET", "/models/{}/all"),
        ("management", "PUT", "/models/{}"),
        ("management", "DELETE", "/models/{}"),
        ("management", "OPTIONS", "/models/{}"),
        ("management", "PUT", "/models/{}/1.0/set-default"),
        ("management", "GET", "/v1/models/{}"),
    ],
)
def test_a_key_for_one_model_is_not_for_others(make_house, listener, method, target):
    entry = {"name": "limited", "key": "k" * 22, "scopes": ["infer", "manage"], "models": ["m"]}
    house = make_house(access=key_access(entry))
    house.registry.names = ("m", "other")
    mine = house.ask(method, target.format("m"), b"", bearer("k" * 22), listener)
    other = house.ask(method, target.format("other"), b"", bearer("k" * 22), listener)
    assert mine.status == 200
    assert (other.status, other.json["type"]) == (403, "ForbiddenException")
    assert other.json["message"] == "The key limited is not for model other; use one that is."


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/models"),
        ("POST", "/models?url=x.mar"),
        ("GET", "/workflows"),
        ("POST", "/workflows?url=x.war"),
    ],
)
def test_a_key_for_one_model_does_not_reach_all(make_house, method, target):
    entry = {"name": "limited", "key": "k" * 22, "scopes": ["manage"], "models": ["m"]}
    house = make_house(access=key_access(entry))
    reply = house.manage(method, target, **bearer("k" * 22))
    assert reply.status == 403
    assert "is for some models only" in reply.json["message"]
    assert not house.registry.calls


def test_no_key_appears_in_an_answer(make_house):
    house = make_house(access=key_access())
    for key in ("flb_secret", KEY[MANAGE]):
        reply = house.ask("GET", "/predictions/m", headers=bearer(key))
        assert key.encode() not in reply.body


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer {}", 200),
        ("Bearer   {}", 200),
        ("Bearer\t{}", 200),
        ("bearer {}", 400),
        ("{}", 400),
        ("Bearer {} more", 400),
        ("xBearer {}", 400),
        ("Bearer", 400),
    ],
)
def test_the_header_is_read_as_torchserve_reads_it(make_house, tmp_path, header, status):
    house = make_house(access=TokenAccess(tmp_path, 60.0))
    given = header.format(tokens_of(tmp_path)["inference"])
    reply = house.ask("GET", "/ping", headers={"Authorization": given})
    assert reply.status == status
    if status == 400:
        assert (reply.json["type"], reply.json["message"]) == ("InvalidKeyException", REFUSED)


def test_malformed_paths_are_told_before_keys_are_asked_for(make_house, tmp_path):
    house = make_house(access=TokenAccess(tmp_path, 60.0))
    assert house.ask("GET", "/%zz").json["type"] == "IllegalArgumentException"
    assert house.ask("GET", "/").status == 405


def test_a_refreshed_key_replaces_the_old_one_at_once(make_house, tmp_path):
    house = make_house(access=TokenAccess(tmp_path, 60.0))
    before = tokens_of(tmp_path)
    reply = house.manage("GET", "/token?type=inference", **bearer(before["API"]))
    assert (reply.status, reply.body) == (200, b"\n")
    assert reply.headers["Content-Type"] == "application/json"
    after = tokens_of(tmp_path)
    assert after["inference"] != before["inference"]
    assert {**after, "inference": ""} == {**before, "inference": ""}
    assert house.ask("GET", "/ping", headers=bearer(before["inference"])).status == 400
    assert house.ask("GET", "/ping", headers=bearer(after["inference"])).status == 200
    assert stat.S_IMODE((tmp_path / "key_file.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_key_is_refreshed_by_any_method(make_house, tmp_path, method):
    house = make_house(access=TokenAccess(tmp_path, 60.0))
    key = tokens_of(tmp_path)["API"]
    assert house.manage(method, "/token/?type=management", **bearer(key)).status == 200


@pytest.mark.parametrize("query", ["", "?type=foo", "?type=API", "?type=foo&type=inference"])
@pytest.mark.parametrize("name", ["API", "management", "inference"])
def test_a_refresh_that_is_not_right_changes_nothing(make_house, tmp_path, query, name):
    house = make_house(access=TokenAccess(tmp_path, 60.0))
    before = tokens_of(tmp_path)
    target = "/token" + (query if name == "API" else "?type=inference")
    reply = house.manage("GET", target, **bearer(before[name]))
    assert (reply.status, reply.json["type"]) == (400, "InvalidKeyException")
    assert reply.json["message"] == REFUSED.replace("Authorization", "Authentication")
    assert tokens_of(tmp_path) == before


@pytest.mark.parametrize(
    "target", ["/models/token", "/models?next_page_token=1", "/models/token/1.0"]
)
def test_a_path_with_token_in_it_is_no_refresh(make_house, tmp_path, target):
    house = make_house(access=TokenAccess(tmp_path, 60.0))
    tokens = tokens_of(tmp_path)
    assert house.manage("GET", target, **bearer(tokens["API"])).json["message"] == REFUSED
    assert house.manage("GET", target, **bearer(tokens["management"])).status in (200, 404)


def test_without_tokens_there_is_no_refresh(house):
    assert house.manage("GET", "/token?type=inference").status == 404


def test_a_server_without_the_model_api_neither_registers_nor_removes(make_house):
    house = make_house(enable_model_api=False)
    assert house.manage("POST", "/models?url=x.mar").status == 405
    assert house.manage("DELETE", "/models/m").status == 405
    assert house.manage("DELETE", "/models/m/1.0").status == 405
    assert not house.registry.calls
    assert house.manage("PUT", "/models/m?min_worker=1").status == 200
    assert house.manage("PUT", "/models/m/1.0/set-default").status == 200


@pytest.mark.parametrize("mode", ["keys", "tokens"])
def test_one_address_for_both_apis_keeps_their_keys_apart(make_house, tmp_path, mode):
    access = key_access() if mode == "keys" else TokenAccess(tmp_path, 60.0)
    here = f"http://127.0.0.1:{free_port()}"
    house = make_house(access=access, inference_address=here, management_address=here)
    infer, manage = KEY[INFER], KEY[MANAGE]
    if mode == "tokens":
        infer, manage = (tokens_of(tmp_path)[name] for name in ("inference", "management"))
    assert house.ask("POST", "/predictions/m", b"", bearer(infer)).status == 200
    assert house.ask("POST", "/models/m/invoke", b"", bearer(infer)).status == 200
    assert house.ask("GET", "/models", headers=bearer(manage)).status == 200
    assert house.ask("GET", "/v1/models/m", headers=bearer(manage)).status == 200
    for method, target in [("GET", "/models"), ("PUT", "/models/m"), ("GET", "/v1/models/m")]:
        assert house.ask(method, target, headers=bearer(infer)).status in (400, 403)
    for target in ("/predictions/m", "/models/m/invoke", "/v1/models/m:predict"):
        assert house.ask("POST", target, b"", bearer(manage)).status in (400, 403)


PREFLIGHT = {"Origin": "http://shop.example", "Access-Control-Request-Method": "POST"}


def test_a_browser_may_ask_first_without_a_key_where_other_origins_are_allowed(make_house):
    house = make_house(access=key_access(), cors_allowed_origin="http://shop.example")
    reply = house.ask("OPTIONS", "/predictions/unknown", headers=PREFLIGHT)
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Access-Control-Allow-Origin"] == "http://shop.example"
    assert house.ask("POST", "/predictions/m", b"", PREFLIGHT).status == 401
    assert house.ask("OPTIONS", "/predictions/m").status == 401


def test_where_no_other_origins_are_allowed_the_question_needs_a_key(make_house):
    house = make_house(access=key_access())
    assert house.ask("OPTIONS", "/predictions/m", headers=PREFLIGHT).status == 401
