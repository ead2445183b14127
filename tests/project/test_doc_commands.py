"""Every command in the documents can be typed: its flags exist, its settings, its values of the chart, its targets."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distrain_k8s.cli import COMMANDS, build_parser, settings_flags
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings, flat
from distrain_trainer.settings.sections import Section

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "image/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "charts" / "distrain" / "examples").glob("*.yaml")),
]
SCHEMA = json.loads((ROOT / "charts" / "distrain" / "values.schema.json").read_text())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
BLOCK = re.compile(r"^```(?:bash|text)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENTED = re.compile(r"^#   (helm .*)$", re.MULTILINE)
NOT_TYPED = {
    "distrain COMMAND --help": "stands for all commands",
    "distrain train --processes": "names the option",
    "distrain logs --process": "names the option",
    "helm package --sign": "names the option",
}
"""What looks like a command and is not one, and why."""


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in blocks and in inline code; pipes, lists and redirections are taken apart."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    lines += [line for line in inline if len(line.split()) > 2] + COMMENTED.findall(text)  # two words name a command
    for line in lines:
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        try:
            for word in [*lexer, ";"]:
                if set(word) <= set("();<>|&") and word:
                    if words:
                        yield words
                    words = []
                else:
                    words.append(word)
        except ValueError:  # a line of a text that has a single quotation mark
            continue


def typed(document: Path, *programs: str) -> list[list[str]]:
    """The commands of a document that start one of these programs, without variables before them."""
    found = []
    for words in commands(document.read_text()):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if "--" in words and words[0] == "kubectl":
            words = words[words.index("--") + 1 :]
        if words and words[0] in programs and len(words) > 1 and " ".join(words) not in NOT_TYPED:
            found.append(words)
    return found


def values_of(words: list[str]) -> Iterator[str]:
    """The names of the chart's values that a command sets."""
    for place, word in enumerate(words):
        option, equals, given = word.partition("=")
        if option in ("--set", "--set-string", "--sweep"):
            if not equals:
                given = words[place + 1] if place + 1 < len(words) else ""
            for part in re.split(r"(?<!\\),", re.sub(r"\{[^}]*\}", "", given)):
                yield ("trainer." if option == "--sweep" else "") + part.partition("=")[0]


def exists(name: str, node: Any = SCHEMA) -> bool:
    """Whether the chart's schema has a value of this name: `image.tag`, `dataClaims[0].claimName`, `extraEnv.ANY`."""
    if not name:
        return True
    first, _, rest = name.partition(".")
    key, bracket, _ = first.partition("[")
    inner = node.get("properties", {}).get(key)
    if inner is None:
        inner = node.get("additionalProperties")
        if inner is None or inner is True:
            patterns = node.get("patternProperties", {})
            inner = next((schema for pattern, schema in patterns.items() if re.search(pattern, key)), inner)
    if not inner:
        return inner is not False and "properties" not in node
    if bracket and isinstance(inner, dict):
        inner = inner.get("items", {})
    return inner is True or exists(rest, inner)


def test_every_command_that_a_document_names_is_one() -> None:
    names = {command.name for command in COMMANDS}
    for document in DOCUMENTS:
        named = set(re.findall(r"`distrain ([a-z-]+)`", document.read_text()))
        assert named <= names, document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_document_can_be_typed(document: Path) -> None:
    if document.name == "commands.md":
        pytest.skip("shows how commands are spelled, and is made of the same tables")
    for words in typed(document, "distrain"):
        command = next((command for command in COMMANDS if command.name == words[1]), None)
        assert command is not None or words[1] == "--version", words
        if command is None:
            continue
        # A name in capitals stands for something, `[FILE]` for what may be left out.
        given = ["1" if re.fullmatch(r"[A-Z]+", word) else word for word in words[1:] if word not in ("...", "...]")]
        try:
            flags, rest = settings_flags(command, given)
            build_parser(command).parse_args(rest) if "--help" not in rest else None
        except SettingsError as error:
            pytest.fail(f"{' '.join(words)}: {error}")
        assert set(flags) <= {*flat(Settings()), "setting", "section.name"}, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_value_of_the_chart_in_a_document_exists(document: Path) -> None:
    for words in typed(document, "distrain", "helm"):
        assert [name for name in values_of(words) if not exists(name)] == [], words
    inline = re.findall(
        r"`(?:--set )?((?:trainer|image|persistence|podSecurity|rdma|kueue)\.[\w.]+)=", document.read_text()
    )
    assert [name for name in inline if not exists(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_target_file_and_setting_in_a_document_exists(document: Path) -> None:
    text = document.read_text()
    for words in typed(document, "make"):
        assert {word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)} <= TARGETS, words
    for words in typed(document, "pytest", "python", ".venv/bin/pytest", ".venv/bin/python"):
        paths = [word for word in words[1:] if "/" in word and not word.startswith(("-", "out"))]
        assert [path for path in paths if not (ROOT / path).exists()] == [], words
    sections = "|".join(name for name, value in Settings() if isinstance(value, Section))
    named = re.findall(rf"`(?:--)?((?:{sections})\.[a-z_]+)[`:= ]", text) if document.suffix == ".md" else []
    if document.name not in ("strategies.md", "arguments.md"):  # which name keys of other programs
        assert [name for name in named if name not in flat(Settings()) and not name.endswith(".json")] == []


def test_values_that_do_not_exist_are_seen() -> None:
    assert exists("trainer.batch.tokens") and exists("secrets.HF_TOKEN.key") and exists("dataClaims[0].claimName")
    assert not exists("trainer.batch.token") and not exists("image.tags") and not exists("dataClaims[0].name")
    assert list(values_of(["helm", "install", "--set", "a.b=1,c={x,y}", "--set=d=2"])) == ["a.b", "c", "d"]


def test_the_exceptions_are_still_in_the_documents() -> None:
    texts = "\n".join(document.read_text() for document in DOCUMENTS)
    assert [command for command in NOT_TYPED if command not in texts] == []


def test_settings_in_blocks_of_yaml_are_taken() -> None:
    for document in DOCUMENTS:
        for block in re.findall(r"^```yaml\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL):
            Settings.model_validate(yaml.safe_load(block))
