"""What the documentation says is what the code does.

Tables between ``<!-- generated: NAME -->`` and ``<!-- end of NAME -->`` are made from the code:
``python tests/test_docs.py`` writes them anew.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import io
import re
import shlex
import textwrap
from pathlib import Path

import click
import pytest
from test_layers import LAYERS, MODULES

from flambeau.frontend.cli import main
from flambeau.frontend.config import SETTINGS
from flambeau.frontend.config_sources import INEFFECTIVE, OTHER_VARIABLES
from flambeau.frontend.exits import ExitReason
from flambeau.frontend.jobs import JOB_TRANSITIONS
from flambeau.frontend.lifecycle import (
    SERVER_TRANSITIONS,
    VERSION_TRANSITIONS,
    WORKER_TRANSITIONS,
)
from flambeau.model_store.model_config import ModelConfig
from flambeau.worker import protocol

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
}
README, ARCHITECTURE, CONFIGURATION = "README.md", "docs/architecture.md", "docs/configuration.md"
TRAINED = {"digits.pt", "index_to_name.json", *(f"images/{digit}.png" for digit in range(10))}
"""What examples/digits/train.py says that it writes."""


def page(name: str) -> str:
    return PAGES[name].read_text(encoding="utf-8")


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def settings_table() -> str:
    rows = [
        [
            f"`{key}`",
            f"`{setting.default}`",
            setting.kind.allowed.replace("<", "&lt;"),
            "file only" if setting.file_only else f"`{setting.flag}`" if setting.flag else "",
            setting.meaning,
        ]
        for key, setting in SETTINGS.items()
    ]
    return table(["key", "default", "allowed", "flag", "meaning"], rows)


def state_table(transitions) -> str:
    rows = []
    for state, following in transitions.items():
        names = ", ".join(each.value for each in transitions if each in following)
        rows.append([state.value, names or "(the end)"])
    return table(["state", "may become"], rows)


def message_table() -> str:
    rows = []
    for cls, tag in sorted(protocol._TAGS.items(), key=lambda item: item[1]):
        sender = "worker" if tag < 16 else "frontend"
        names = ", ".join(f"`{field.name}`" for field in dataclasses.fields(cls))
        rows.append([str(tag), cls.__name__, sender, names, summary(cls.__doc__ or "")])
    return table(["tag", "message", "sent by", "fields", "meaning"], rows)


def module_table() -> str:
    rows = [
        [
            f"`{name.replace('.', '/')}.py`",
            summary(ast.get_docstring(tree) or "").replace("``", "`"),
        ]
        for name, tree in MODULES.items()
    ]
    return table(["file", "what it is for"], rows)


def layer_table() -> str:
    lines = []
    for rank, row in reversed(list(enumerate(LAYERS))):
        words = textwrap.wrap(" ".join(row.split()), 100)
        lines += [f"{rank:2}  {words[0]}", *(f"    {more}" for more in words[1:])]
    return "\n".join(["```text", *lines, "```"])


def summary(docstring: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


GENERATED = {
    "settings": settings_table,
    "ineffective": lambda: ", ".join(f"`{key}`" for key in sorted(INEFFECTIVE)),
    "layers": layer_table,
    "modules": module_table,
    "job-states": lambda: state_table(JOB_TRANSITIONS),
    "worker-states": lambda: state_table(WORKER_TRANSITIONS),
    "version-states": lambda: state_table(VERSION_TRANSITIONS),
    "server-states": lambda: state_table(SERVER_TRANSITIONS),
    "messages": message_table,
}
_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)


def regenerated(text: str) -> str:
    return _BLOCK.sub(lambda block: f"{block[1]}\n{GENERATED[block[2]]()}\n\n{block[4]}", text)


@pytest.mark.parametrize("name", PAGES)
def test_generated_tables_are_those_of_the_code(name):
    text = page(name)
    assert text == regenerated(text), "Write them anew with: python tests/test_docs.py"


def test_every_table_has_its_place():
    found = [block[2] for name in PAGES for block in _BLOCK.finditer(page(name))]
    assert sorted(found) == sorted(GENERATED)


def test_the_keys_of_model_config_yaml_are_described():
    described = dict(
        re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]*\| [^|]+\|$", page(CONFIGURATION), re.M)
    )
    known = {
        field.metadata["key"]: field.metadata["rule"].allowed
        for field in dataclasses.fields(ModelConfig)
    }
    assert described == known


def test_numbers_in_the_architecture_are_those_of_the_code():
    rows = re.findall(r"^\| `([a-z_.]+)\.([A-Z_]+)` \| `([^`]+)` \|", page(ARCHITECTURE), re.M)
    assert rows
    for module, name, written in rows:
        value = getattr(importlib.import_module(f"flambeau.{module}"), name)
        assert ast.literal_eval(written) == value, f"{module}.{name} is {value}"


def test_every_reason_of_a_workers_end_is_explained():
    missing = [each.value for each in ExitReason if f"`{each.value}`" not in page(ARCHITECTURE)]
    assert not missing


def commands(group: click.Group, prefix: str):
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        elif command is not None:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(main, "flambeau"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_mentioned(command):
    assert any(f"{command}`" in page(name) or f"{command} " in page(name) for name in PAGES)


def blocks(language: str, name: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def command_lines(name: str) -> list[list[str]]:
    joined = "\n".join(blocks("sh", name)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("name", PAGES)
def test_commands_in_examples_exist_with_their_options(name):
    for words in command_lines(name):
        if words[0] != "flambeau" or words[1].startswith("-"):
            continue
        known = next(
            (each for each in COMMANDS if words[: len(each.split())] == each.split()), None
        )
        assert known is not None, f"there is no such command: {shlex.join(words)}"
        command = COMMANDS[known]
        settings = command.context_settings  # its names for --help are remembered by the command
        parser = command.make_parser(click.Context(command, info_name=known, **settings))
        parser.parse_args(words[len(known.split()) :])


@pytest.mark.parametrize("name", PAGES)
def test_variables_in_the_text_are_known(name):
    known = {variable for setting in SETTINGS.values() for variable in setting.variables}
    known |= OTHER_VARIABLES
    written = set(re.findall(r"\b(?:TS|FLAMBEAU)_[A-Z_]+[A-Z]\b", page(name)))
    assert written <= known


def test_variables_of_the_container_image_are_known():
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    known = {variable for setting in SETTINGS.values() for variable in setting.variables}
    assert set(re.findall(r"\bFLAMBEAU_[A-Z_]+\b", text)) <= known


class Walk:
    """The files that a reader has who types the README's commands one after the other."""

    def __init__(self) -> None:
        self.folder = Path()
        self.made: set[Path] = set()

    def add(self, name: str) -> None:
        self.made.add(self.folder / name)

    def has(self, name: str) -> bool:
        path = self.folder / name
        return path in self.made or (ROOT / path).is_file()

    def type(self, words: list[str]) -> list[str]:
        """Take the step; the files that it needs and that are not there."""
        match words:
            case ["cd", folder]:
                self.folder = Path(folder)
                needed: list[str] = []
            case ["cp", *needed, target]:
                for name in needed:
                    self.made.add(self.folder / target / Path(name).name)
            case ["python", script, "--out", target]:
                needed = [script]
                self.made |= {self.folder / target / name for name in TRAINED}
            case ["flambeau", "archive", *options]:
                given = dict(zip(options[::2], options[1::2], strict=True))
                flags = ("--model-file", "--serialized-file", "--extra-files", "--handler")
                needed = [given[flag] for flag in flags if "." in given.get(flag, "")]
                self.add(f"{given['--export-path']}/{given['--model-name']}.mar")
            case ["flambeau", "start", *options]:
                archives = (
                    options[options.index("--models") + 1 :][:1] if "--models" in options else []
                )
                needed = [f"model_store/{each.rpartition('=')[2]}" for each in archives]
            case ["flambeau", "models", "register", archive, *_]:
                needed = [f"model_store/{archive}"]
            case ["curl", "-T", name, _] | ["flambeau", "predict", _, "--input", name]:
                needed = [name]
            case _:
                needed = []
        return [name for name in needed if not self.has(name)]


def test_the_readme_names_only_files_that_are_there():
    walk = Walk()
    for language, name, block in re.findall(
        r"(?:^```(sh|python)|Save this as `([\w.]+)`)(?:[^\n]*\n)(.*?)(?=^```|Save this as|\Z)",
        page(README),
        re.DOTALL | re.MULTILINE,
    ):
        if name:
            walk.add(name)
        elif language == "sh":
            if ". .venv/bin/activate" in block:
                # A new terminal, at the root of the repository.
                walk.folder = Path()
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                assert not words or not walk.type(words), line
    assert len(walk.made) > len(TRAINED)


def test_training_writes_what_the_walk_expects():
    docstring = ast.get_docstring(ast.parse((ROOT / "examples/digits/train.py").read_text()))
    named = set(re.findall(r"``([\w./]+\.\w+)``", docstring or ""))
    assert named <= TRAINED
    assert {"digits.pt", "index_to_name.json", "images/0.png", "images/9.png"} <= named


def test_the_readmes_shortest_handler_answers():
    space: dict[str, object] = {}
    exec(blocks("python", README)[0], space)  # noqa: S102 - it is our own text
    handler = space["Lengths"]()  # type: ignore[operator]
    first, second = handler.predict([bytearray(b"abc"), bytearray()])
    assert first == {"bytes": 3}
    assert second.error_code == 400


def test_the_readmes_class_is_a_handler():
    torch = pytest.importorskip("torch")
    image_module = pytest.importorskip("PIL.Image")
    space: dict[str, object] = {}
    exec(blocks("python", README)[1], space)  # noqa: S102
    handler = space["DigitName"]()  # type: ignore[operator]
    handler.mapping = {"0": "zero", "1": "one"}
    picture = io.BytesIO()
    image_module.new("RGB", (64, 64)).save(picture, "PNG")
    row = {"body": bytearray(picture.getvalue())}
    assert handler.preprocess([row, row]).shape == (2, 3, 224, 224)
    assert handler.postprocess(torch.tensor([[0.1, 0.9], [0.8, 0.2]])) == ["one", "zero"]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page(name))
    broken = [
        link for link in links if "://" not in link and not (PAGES[name].parent / link).exists()
    ]
    assert not broken


if __name__ == "__main__":
    for each in PAGES.values():
        each.write_text(regenerated(each.read_text(encoding="utf-8")), encoding="utf-8")
