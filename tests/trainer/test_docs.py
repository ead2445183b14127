"""The documents say what the code says."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_of_settings_is_current() -> None:
    reference = runpy.run_path(str(ROOT / "docs" / "settings.py"))["reference"]()
    assert (ROOT / "docs" / "settings.md").read_text() == reference, "run `make docs`"


def test_no_document_names_a_package_registry_or_a_machines_path() -> None:
    texts = [path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "constraints.txt"]]
    assert not any(word in text for text in texts for word in ("--index-url", "--extra-index-url", "/root/", "/work/"))
