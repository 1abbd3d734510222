"""What authors of handlers have: handler files as models, --reload, `handler run`, the fixture."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from real_server import COMMAND, environment, wait_for

if TYPE_CHECKING:
    from pathlib import Path

STARS = """
import flambeau

class Stars(flambeau.Handler):
    def predict(self, batch: list[int]) -> list[str]:
        print("a batch of", len(batch))
        return ["*" * each for each in batch]
"""
TEST = """
import pytest
import flambeau
from stars import Stars

class Here(flambeau.Handler):
    def predict(self, batch):
        return [len(batch)] * len(batch)

def test_a_class(flambeau_server):
    model = flambeau_server(Stars, batch_size=2)
    assert model.predict(json=3).text == "***"
    refused = model.predict(json="x")
    assert refused.status == 422
    assert refused.json()["type"] == "InvalidInputException"

def test_it_is_served_once(flambeau_server):
    assert flambeau_server(Stars, batch_size=2) is flambeau_server(Stars, batch_size=2)

def test_a_class_of_the_test_itself(flambeau_server):
    assert flambeau_server(Here).predict(b"x").json() == 1

def test_what_cannot_be_served_fails_and_says_why(flambeau_server, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_like_it")
    with pytest.raises(pytest.fail.Exception, match="nothing_like_it"):
        flambeau_server(tmp_path / "broken.py")
"""


def test_only_the_model_whose_file_changed_gets_new_workers(new_server) -> None:
    server = new_server("--reload")
    one, two = (server.store.root / name for name in ("one.py", "two.py"))
    one.write_text(STARS)
    two.write_text(STARS)
    server.start()
    server.serve("one.py")
    server.serve("two.py")
    untouched = server.ready_pids("two")
    assert server.predict("one", **{}).status == 422

    def body(number: int) -> bytes:
        return server.request(
            "POST", "/predictions/one", str(number), {"Content-Type": "application/json"}
        ).body

    assert body(2) == b"**"
    one.write_text(STARS.replace('"*"', '"+"'))
    wait_for(lambda: body(2) == b"++", 30, "answers of the new file")
    one.write_text("this is no Python")
    wait_for(lambda: b"SyntaxError" in body(2), 60, "the reason why there is no worker")
    one.write_text(STARS.replace('"*"', '"#"'))
    wait_for(lambda: body(2) == b"##", 30, "answers of the mended file")
    assert server.ready_pids("two") == untouched


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "handler", "run", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_handler_is_tried_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "stars.py").write_text(STARS)
    (tmp_path / "3.json").write_text("3")
    (tmp_path / "x.json").write_text('"x"')
    done = run(tmp_path, "stars.py", "--input", "3.json", "--input", "3.json")
    assert (done.returncode, done.stdout) == (0, "***\n***\n")
    assert "a batch of 2" in done.stderr
    done = run(tmp_path, "stars.py:Stars", "--input", "x.json", "--input", "3.json")
    assert (done.returncode, done.stdout) == (1, "***\n")
    assert "HTTP 422: The request does not fit the model's input" in done.stderr


def test_a_handler_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_like_it")
    done = run(tmp_path, "broken.py")
    assert done.returncode == 1
    assert "needs the Python package 'nothing_like_it'" in done.stderr.splitlines()[-1]
    assert run(tmp_path, "missing.py").returncode == 2


def test_the_fixture_serves_handlers_in_tests(tmp_path: Path) -> None:
    (tmp_path / "stars.py").write_text(STARS)
    (tmp_path / "test_stars.py").write_text(TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_stars.py"],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
