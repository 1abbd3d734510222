"""The container images, as far as they can be checked without a container engine."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from flambeau.frontend.metrics import Metrics

DOCKER = Path(__file__).parent.parent / "docker"


@pytest.fixture
def house(tmp_path):
    """A folder of commands that only say how they were called, and a home for the entry script."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("torchserve", "flambeau", "other"):
        path = commands / name
        path.write_text('#!/bin/sh\necho "$(basename "$0")" "$@"\n')
        path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    script = tmp_path / "entrypoint.sh"
    text = (DOCKER / "entrypoint.sh").read_text()
    script.write_text(text.replace("home=/home/model-server", f"home={home}"))
    return tmp_path


def run(house, *arguments):
    said = subprocess.run(
        ["sh", house / "entrypoint.sh", *arguments],
        env={"PATH": f"{house / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return said.stdout.strip().replace(str(house / "home"), "~")


STORE = "--model-store ~/model-store"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ((), f"flambeau start {STORE} --models all"),
        (("serve",), f"flambeau start {STORE} --models all"),
        (("--models", "a.mar"), f"flambeau start {STORE} --models a.mar"),
        (
            ("torchserve", "--start", "--model-store", "/mnt", "--models", "a=a.mar"),
            "torchserve --foreground --start --model-store /mnt --models a=a.mar",
        ),
        (("torchserve", "--start", "--foreground"), "torchserve --start --foreground"),
        (("torchserve", "--version"), "torchserve --version"),
        (("torchserve", "--stop"), "torchserve --stop"),
        (("flambeau", "status"), "flambeau status"),
        (("other", "a b", "c"), "other a b c"),
    ],
)
def test_the_entry_takes_torchserves_command_lines(house, arguments, command):
    assert run(house, *arguments) == command


def test_the_entry_serves_what_a_mounted_configuration_says(house):
    (house / "home" / "config.properties").write_text("load_models=all\n")
    wanted = "torchserve --start --foreground --ts-config ~/config.properties --disable-token-auth"
    assert run(house, "serve", "--ncs") == f"{wanted} --ncs"


def test_the_images_differ_in_torch_and_gpus_alone():
    def steps(name):
        lines = (DOCKER / name).read_text().splitlines()
        return [line for line in lines if not line.startswith("#")]

    difference = difflib.ndiff(steps("Dockerfile"), steps("Dockerfile.cuda"))
    changed = {line for line in difference if line[:2] in ("- ", "+ ")}
    assert {line.strip("+- \\") for line in changed} == {
        "ENV PATH=/opt/flambeau/bin:$PATH",
        "PATH=/opt/flambeau/bin:$PATH",
        "ENV NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    }


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_an_image_runs_as_nobody_special_and_says_whether_it_is_ready(name):
    text = (DOCKER / name).read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["model-server"]
    assert "HEALTHCHECK" in text
    assert "MANAGEMENT_ADDRESS" not in "".join(re.findall(r"^ENV.*?[^\\]$", text, re.M | re.S))
    assert not re.search(r"jdk|jre|java", text, re.IGNORECASE)


def test_the_compose_file_mounts_files_that_are_there():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert set(services) == {"flambeau", "prometheus", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert (DOCKER / volume.split(":")[0]).exists(), volume
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:")


def test_the_dashboard_asks_for_metrics_that_exist():
    dashboard = json.loads((DOCKER / "grafana" / "flambeau.json").read_text())
    shown = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    asked = set(re.findall(r"\bflambeau_[a-z_]+?(?=_bucket|_sum\b|_count\b|\b)", shown))
    families = {family.name for family in Metrics().collect()}
    assert asked
    assert {name.removesuffix("_total") for name in asked} <= families
