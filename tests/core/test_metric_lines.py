"""Metrics that handlers print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.metric_lines import METRICS_MARK, parse_metric_line
from flambeau.worker.metrics import Sample

TAIL = "|#hostname:h,1795914327"
OF_MODEL = [["ModelName", "m"], ["Level", "Model"]]


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        (
            "A.Count:5|#ModelName:m,Level:Model|#type:COUNTER|#hostname:h,123,id1,id2",
            ["A", "counter", "Count", 5.0, OF_MODEL, "id1,id2"],
        ),
        # What a handler written for the old MMS prints: no type.
        (f"A.Count:5|#ModelName:m,Level:Model{TAIL}", ["A", "counter", "Count", 5.0, OF_MODEL, ""]),
        (f"A.Milliseconds:0.5|#{TAIL}", ["A", "gauge", "Milliseconds", 0.5, [], ""]),
        (f"A.B:1|#|#type:FOO{TAIL}", ["A", "gauge", "B", 1.0, [], ""]),
        (
            f"My A.My Unit:-5e3|#a:|#type:Histogram{TAIL}",
            ["My A", "histogram", "My Unit", -5000.0, [["a", ""]], ""],
        ),
        (
            f"A.B:1|#url:http://x/y,z,n:2{TAIL}",
            ["A", "gauge", "B", 1.0, [["url", "http://x/y,z"], ["n", "2"]], ""],
        ),
    ],
)
def test_a_line_is_a_sample(line, sample):
    assert parse_metric_line(METRICS_MARK + line) == sample


@pytest.mark.parametrize(
    "line",
    [
        "",
        "A.Count:5",
        "A.Count:1,5|#a:b|#type:COUNTER|#hostname:h,123",
        "A.Count:--5|#a:b|#type:COUNTER|#hostname:h,123",
        "A.Count:nan|#a:b|#type:COUNTER|#hostname:h,123",
        "A.Count:5|#a:b|#type:COUNTER|#hostname:h",
        "A:5|#a:b|#hostname:h,123",
        "A-B.Count:5|#a:b|#hostname:h,123",
        "Failed to update metric with name:A and dimensions: a:b with value: 1: why",
    ],
)
def test_anything_else_is_none(line):
    assert parse_metric_line(METRICS_MARK + line) is None


@given(st.text())
def test_no_text_breaks_the_parser(text):
    parse_metric_line(METRICS_MARK + text)


WORDS = st.text("abcXYZ019_ ", min_size=1)
VALUES = st.text(st.characters(exclude_characters="|,\n\r", exclude_categories=["Cs"]))


@given(
    WORDS,
    st.sampled_from(["counter", "gauge", "histogram"]),
    WORDS,
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.tuples(WORDS, VALUES), max_size=4),
    st.text("abc-019,", max_size=20).map(lambda text: text.strip(",")),
)
def test_what_a_worker_writes_is_read_back(name, kind, unit, value, dimensions, request):
    line = Sample(name, kind, unit, value, dimensions, request).line()
    expected = [name, kind, unit, value, [list(pair) for pair in dimensions], request]
    assert parse_metric_line(line) == expected
