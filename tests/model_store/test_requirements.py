"""What a requirements file may name, and what of it tells one environment from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flambeau.model_store.errors import InvalidModelError
from flambeau.model_store.requirements import _taken_apart, digest_of_requirements

if TYPE_CHECKING:
    from pathlib import Path

LEADS_OUT = "leads out of the archive"


def put(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def digest(folder: Path, text: str, name: str = "requirements.txt") -> str:
    put(folder, {name: text})
    return digest_of_requirements(folder, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n\n",
        "numpy\ntorch>=2 # the newest\nhumanize[all]==4.* ; python_version > '3'",
        "a_package @ https://example.com/a.whl",
        "git+https://example.com/repository.git@main#egg=x",
        "--index-url https://${USER}:${TOKEN}@example.com/simple\nx",
        "-i https://a/b\n--extra-index-url=https://download.pytorch.org/whl/cpu\n--pre",
        "--no-index\n--find-links https://example.com/wheels",
        "x==1 --hash=sha256:ab \\\n  --hash sha256:cd",
        "--only-binary :all: --no-binary=x --trusted-host h --prefer-binary --require-hashes",
        "\ufeffnumpy",
        "./a.whl\na.whl ; python_version > '3'\nwheels/b.whl[extra]",
        "--no-index -f wheels\nb",
        "-r more/other.txt\n-c constraints.txt",
        ".",
        "./source",
    ],
)
def test_what_is_allowed(tmp_path: Path, text: str) -> None:
    put(
        tmp_path,
        {
            "a.whl": "a",
            "wheels/b.whl": "b",
            "constraints.txt": "numpy<3",
            "more/other.txt": "-r beside.txt\nx",
            "more/beside.txt": "-r other.txt\n./a.whl",
            "source/setup.py": "",
        },
    )
    assert len(digest(tmp_path, text)) == 64


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-e .", "editable"),
        ("--editable=./source", "editable"),
        ("--edit .", "--edit is not allowed"),
        ("--req other.txt", "--req is not allowed"),
        ("x --target /tmp", "--target is not allowed"),
        ("--index-url", "--index-url is not allowed"),
        ("--pre=1", "--pre is not allowed"),
        ("x -e .", "editable"),
        ("--no-index numpy", "numpy is not allowed"),
        ("-r 'unclosed", "No closing quotation"),
        ("/etc/x.whl", LEADS_OUT),
        ("../x.whl", LEADS_OUT),
        ("wheels/../../x.whl", LEADS_OUT),
        ("file:///etc/x.whl", LEADS_OUT),
        ("name @ file:///etc/x.whl", LEADS_OUT),
        ("git+file:///srv/repository", LEADS_OUT),
        ("c:x.whl", LEADS_OUT),
        ("${HOME}/x.whl", LEADS_OUT),
        ("${PLACE}", LEADS_OUT),
        ("link.whl", LEADS_OUT),
        ("-r /etc/passwd", LEADS_OUT),
        ("-r ../other.txt", LEADS_OUT),
        ("-c https://example.com/constraints.txt", LEADS_OUT),
        ("-r link.txt", LEADS_OUT),
        ("-f /wheels", LEADS_OUT),
        ("--find-links=file:///wheels", LEADS_OUT),
        ("-i file:///simple", "an index must be an http or https URL"),
        ("--extra-index-url /simple", "an index must be an http or https URL"),
        ("./missing.whl", "./missing.whl is not in the archive"),
        ("-r missing.txt", "missing.txt is not in the archive"),
    ],
)
def test_what_is_not(tmp_path: Path, line: str, words: str) -> None:
    inside, outside = tmp_path / "model", tmp_path / "outside.txt"
    inside.mkdir()
    outside.write_text("secret")
    (inside / "link.whl").symlink_to(outside)
    (inside / "link.txt").symlink_to(outside)
    with pytest.raises(InvalidModelError) as caught:
        digest(inside, f"numpy\n{line}\n")
    assert words in caught.value.message
    assert caught.value.message.startswith("requirements.txt: line 2: ")
    assert "secret" not in caught.value.message


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"requirements\.txt is not in the archive"):
        digest_of_requirements(tmp_path, "requirements.txt")
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfen\x00")
    with pytest.raises(InvalidModelError, match=r"requirements\.txt is not UTF-8 text"):
        digest_of_requirements(tmp_path, "requirements.txt")
    (tmp_path / "requirements.txt").write_bytes(b"# coding: utf-7\n+AC0-e +AC8-tmp\n")
    with pytest.raises(InvalidModelError, match="names the encoding utf-7"):
        digest_of_requirements(tmp_path, "requirements.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidModelError, match="folder cannot be read"):
        digest_of_requirements(tmp_path, "folder")


def test_everything_that_is_named_counts_and_nothing_else(tmp_path: Path) -> None:
    text = "./a.whl\n-f wheels\n-r other.txt\n./source"
    files = {"a.whl": "1", "wheels/b.whl": "1", "other.txt": "x", "source/deep/x.py": "1"}
    put(tmp_path, files)
    before = digest(tmp_path, text)
    for name in files:
        put(tmp_path, {name: "2"})
        assert digest(tmp_path, text) != before, name
        put(tmp_path, {name: files[name]})
    assert digest(tmp_path, f"{text}\n") != before
    put(tmp_path, {"handler.py": "another", "weights.pt": "others"})
    assert digest(tmp_path, text) == before


def test_lines_are_counted_as_they_stand_in_the_file(tmp_path: Path) -> None:
    put(tmp_path, {"other.txt": "a \\\n  ==1\n-e .\n"})
    with pytest.raises(InvalidModelError, match=r"other\.txt: line 3: "):
        digest(tmp_path, "-r other.txt")


@given(st.text(alphabet="-rcife= ./x'\"\\#${}:@\t", max_size=30))
@example("\t-")
def test_no_option_is_let_through_that_is_not_listed(line: str) -> None:
    try:
        requirement, options = _taken_apart(line)
    except ValueError:
        return
    assert not requirement.startswith("-")
    assert all(name in ("-r", "-c", "-f", "-i") for name, _ in options)
