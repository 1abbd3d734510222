"""Where the log goes."""

from __future__ import annotations

import json
import logging
import re

import pytest

from flambeau.frontend.access_log import log_access
from flambeau.frontend.config import Config
from flambeau.frontend.errors import ConfigError
from flambeau.frontend.logs import Logs

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture
def open_logs():
    """Makes logs, and puts everything back afterwards."""
    names = ("", "flambeau.engine", "flambeau.ts_metrics", "flambeau.model_metrics")
    before = {n: (logging.getLogger(n).level, logging.getLogger(n).propagate) for n in names}
    made = []

    def make(**settings):
        made.append(Logs(Config(**settings)))
        return made[-1]

    yield make
    for logs in made:
        logs.close()
    for name, (level, propagate) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = propagate


def test_one_json_object_a_line(open_logs, capsys):
    open_logs(log_format="json")
    logging.getLogger("flambeau.x").warning("Prediction failed for request %s: %s", ID, "no")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("flambeau.x").exception("bad")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time")
    assert first == {
        "level": "WARNING",
        "logger": "flambeau.x",
        "message": f"Prediction failed for request {ID}: no",
        "request_id": ID,
    }
    assert "ValueError: why" in second["exception"]


def test_the_access_log_has_the_requests_id_as_a_field(open_logs, capsys):
    open_logs(log_format="json")
    log_access(("127.0.0.1", 9), "GET /ping HTTP/1.1", 200, 0.001, "mine")
    fields = json.loads(capsys.readouterr().err)
    assert fields["request_id"] == "mine"
    assert fields["message"] == '/127.0.0.1:9 "GET /ping HTTP/1.1" 200 1'


def test_a_line_for_people_ends_with_the_id_of_its_request(open_logs, capsys):
    open_logs()
    log_access(("127.0.0.1", 9), "GET /ping HTTP/1.1", 200, 0.001, "mine")
    logging.getLogger("flambeau.x").warning("about %s", "mine", extra={"request_id": "mine"})
    logging.getLogger("flambeau.x").warning("about nobody")
    lines = capsys.readouterr().err.splitlines()
    ends = ("200 1 [mine]", "about mine", "about nobody")
    assert all(line.endswith(end) for line, end in zip(lines, ends, strict=True))


def test_single_loggers_have_levels_of_their_own(open_logs, capsys):
    open_logs(log_levels="flambeau.engine=ERROR")
    logging.getLogger("flambeau.engine").warning("hidden")
    logging.getLogger("flambeau.other").info("shown")
    said = capsys.readouterr().err
    assert "shown" in said
    assert "hidden" not in said


def test_torchserves_files(open_logs, tmp_path, capsys):
    logs = open_logs(log_location=tmp_path / "a", metrics_location=tmp_path / "b")
    logging.getLogger("flambeau.access").info('/127.0.0.1:9 "GET /ping HTTP/1.1" 200 1')
    logging.getLogger("flambeau.model.m").warning("words")
    logging.getLogger("flambeau.ts_metrics").info("QueueTime.ms:1.0|#Level:Host|#hostname:h")
    logging.getLogger("flambeau.model_metrics").info("Mine.Count:1.0|#|#hostname:h")
    logs.close()
    texts = {path.name: path.read_text() for path in tmp_path.glob("*/*.log")}
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(
        rf'{time} - /127\.0\.0\.1:9 "GET /ping HTTP/1\.1" 200 1\n', texts["access_log.log"]
    )
    assert re.fullmatch(
        rf"{time} \[WARN \] MainThread flambeau\.model\.m - words\n", texts["model_log.log"]
    )
    assert len(texts["ts_log.log"].splitlines()) == 2
    assert re.fullmatch(rf"{time} - QueueTime\.ms.*\n", texts["ts_metrics.log"])
    assert re.fullmatch(rf"{time} - Mine\.Count.*\n", texts["model_metrics.log"])
    assert "QueueTime" not in capsys.readouterr().err


def test_the_log_may_be_a_file(open_logs, tmp_path, capsys):
    logs = open_logs(log_file=tmp_path / "new" / "server.log", log_format="json")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("flambeau.x").exception("bad")
    logs.close()
    (line,) = (tmp_path / "new" / "server.log").read_text().splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_to_is_named(open_logs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="log_location"):
        open_logs(log_location=tmp_path / "file")
