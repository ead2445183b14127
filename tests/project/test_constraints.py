"""The pinned versions are for every Python that distrain is for."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0", "3.14.0"])
def test_each_pinned_version_takes_each_python(python: str) -> None:
    asked = {}
    for name, version in PINNED.items():
        try:
            about = metadata(name).json
        except PackageNotFoundError:  # of another platform
            continue
        if str(about["version"]).partition("+")[0] == version:
            asked[name] = str(about.get("requires_python", ""))
    assert len(asked) > len(PINNED) / 2, "this environment is not that of constraints.txt"
    assert {name: range_ for name, range_ in asked.items() if not SpecifierSet(range_).contains(python)} == {}
