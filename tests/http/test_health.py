"""Probes: what a load balancer or Kubernetes learns."""

from __future__ import annotations

import pytest

READY = ("/readyz", "/v2/health/ready")


@pytest.mark.parametrize("target", ["/livez", "/v2/health/live"])
def test_a_server_that_answers_is_alive_whatever_its_models_do(house, target):
    house.registry.loading = {"m/1.0": "failed"}
    house.draining = True
    reply = house.ask("GET", target)
    assert (reply.status, reply.json) == (200, {"live": True})


@pytest.mark.parametrize("target", READY)
def test_a_server_is_ready_when_its_models_are(house, target):
    assert house.ask("GET", target).json == {"ready": True}
    house.registry.loading = {"m/1.0": "loading"}
    reply = house.ask("GET", target)
    told = {"ready": False, "reason": "models", "models": {"m/1.0": "loading"}}
    assert (reply.status, reply.json) == (503, told)


@pytest.mark.parametrize("target", READY)
def test_a_server_that_starts_or_drains_is_not_ready(house, target):
    house.starting = True
    reply = house.ask("GET", target)
    assert (reply.status, reply.json["reason"]) == (503, "starting")
    house.draining = True
    assert house.ask("GET", target).json == {"ready": False, "reason": "draining"}


def test_a_model_is_ready_when_a_worker_has_loaded_it(house):
    house.registry.loading = {"m/2.0": "loading"}
    assert house.ask("GET", "/v2/models/m/ready").json == {"name": "m", "ready": True}
    reply = house.ask("GET", "/v2/models/m/versions/2.0/ready")
    assert (reply.status, reply.json) == (503, {"name": "m", "ready": False})
    assert house.ask("GET", "/v2/models/nope/ready").status == 404
    house.draining = True
    assert house.ask("GET", "/v2/models/m/ready").status == 503


def test_a_model_has_metadata(house):
    wanted = {"name": "m", "versions": ["1.0", "2.0"], "platform": "pytorch"}
    assert house.ask("GET", "/v2/models/m").json == {**wanted, "inputs": [], "outputs": []}
    assert house.ask("GET", "/v2/models/m/versions/2.0").json["versions"] == ["2.0"]
    assert house.ask("GET", "/v2/models/m/versions/9").status == 404
