"""Documents lead to what is there: links, decision records, and the commands that show them."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
RECORD = r"# (\d+)\. ([^\n]+)\n\n## Context\n\n.+\n\n## Decision\n\n.+\n\n## See it\n\n```\n(.+)\n```\n"


def record(file: Path) -> re.Match[str]:
    """Number, title and commands of a decision."""
    found = re.fullmatch(RECORD, file.read_text(), re.DOTALL)
    assert found, f"{file.name} is not a title, a context, a decision and a command"
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text()) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_no_document_names_a_machines_path() -> None:
    assert not [file for file in DOCUMENTS if re.search(r"/root/|/work/|--(extra-)?index-url", file.read_text())]


def test_the_index_lists_every_decision_by_number_and_title() -> None:
    expected = [f"| {int(record(file)[1])} | [{record(file)[2]}]({file.name}) |" for file in DECISIONS]
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    assert [line for line in index.splitlines() if re.match(r"\| \d", line)] == expected
    assert [int(file.name[:4]) for file in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("file", DECISIONS, ids=lambda path: path.stem)
def test_the_command_of_a_decision_runs_something(file: Path) -> None:
    for command in record(file)[3].splitlines():
        program, *arguments = shlex.split(command)
        paths = [ROOT / word for word in arguments if "/" in word and not word.startswith("-")]
        assert program in (".venv/bin/pytest", ".venv/bin/python") and paths, command
        assert [path for path in paths if not path.exists()] == []
        if program == ".venv/bin/pytest":
            tests = set[str]().union(*(names(path) for path in paths))
            words = re.findall(r"\w+", arguments[arguments.index("-k") + 1])
            missing = [word for word in words if word != "or" and not any(word in name for name in tests)]
            assert missing == [], f"{command} selects nothing by {missing}"


def names(folder: Path) -> set[str]:
    """The names of all tests in a folder."""
    return {
        name for path in folder.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
