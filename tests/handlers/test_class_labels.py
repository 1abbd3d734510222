"""Class numbers to names people can read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from flambeau.handlers.labels import load_label_mapping, map_class_to_label

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "mapping"),
    [
        ({"0": "cat", "1": "Käse"}, {"0": "cat", "1": "Käse"}),
        ({"0": ["n01440764", "tench"]}, {"0": "tench"}),
        (
            {"object_type_names": ["__background__", "person"]},
            {"0": "__background__", "1": "person"},
        ),
        ({}, {}),
    ],
)
def test_each_shape_of_the_file_is_read(
    tmp_path: Path, content: object, mapping: dict[str, str]
) -> None:
    path = tmp_path / "index_to_name.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert load_label_mapping(path) == mapping
    assert load_label_mapping(str(path)) == mapping


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (["cat"], "index->name JSON mapping should be"),
        ({"0": 1}, "labels in index->name mapping"),
        ({"0": []}, "labels in index->name mapping"),
        ({"0": ["a", 2]}, "labels in index->name mapping"),
        ({"object_type_names": "cat", "1": None}, "labels in index->name mapping"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    path = tmp_path / "index_to_name.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=reason):
        load_label_mapping(path)


def test_without_the_file_there_is_a_warning_and_no_mapping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_label_mapping(tmp_path / "index_to_name.json") is None
    assert "Inference output will not include class name." in caplog.text


def test_labels_keep_the_order_of_the_classes() -> None:
    answers = map_class_to_label([[0.7, 0.2]], {"3": "cat", "1": "dog"}, [[3, 1]])
    assert [list(answer.items()) for answer in answers] == [[("cat", 0.7), ("dog", 0.2)]]


def test_without_a_mapping_the_number_is_the_label() -> None:
    assert map_class_to_label([[0.1, 0.9], [0.8, 0.2]]) == [
        {"0": 0.1, "1": 0.9},
        {"0": 0.8, "1": 0.2},
    ]
    assert map_class_to_label([[0.9]], None, [[7]]) == [{"7": 0.9}]
    assert map_class_to_label([]) == []


def test_what_cannot_be_mapped_is_refused() -> None:
    with pytest.raises(ValueError, match="Convert classes to list"):
        map_class_to_label(((0.1,),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Mapping must be a dict"):
        map_class_to_label([[0.1]], ["cat"])  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        map_class_to_label([[0.1]], {"1": "cat"}, [[0]])
