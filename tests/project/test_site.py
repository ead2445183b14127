"""The site of the documents: built without a warning, whole without a network, current where it follows from code."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REFERENCE: dict[str, Callable[[], str]] = runpy.run_path(str(ROOT / "docs" / "reference.py"))["PAGES"]


@pytest.mark.parametrize("page", REFERENCE)
def test_a_page_that_follows_from_code_is_current(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == REFERENCE[page](), "run `make docs`"


def test_the_picture_of_the_architecture_is_current() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    assert (ROOT / "docs" / "architecture.svg").read_text() == drawing["picture"](), "run `make docs`"
    rooms = {path.parent.name for path in (ROOT / "trainer" / "distrain_trainer").glob("*/__init__.py")}
    drawn = {box.name.partition("/")[0] for box in drawing["BOXES"]} | {"hardware", "metrics"}
    assert rooms <= drawn, "draw the new room"


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Builds the documents of a checkout, as `make docs` does."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=docs.parent,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = build(ROOT / "docs", folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_asks_no_other_server_for_anything(site: Path) -> None:
    loaded = re.compile(r"""<(?:script|img|link|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*>""")
    asked = {found for page in site.rglob("*.html") for found in loaded.findall(page.read_text())}
    assert asked == set()
    assert (site / "search" / "search_index.js").is_file(), "the script of a page that is opened from a folder loads it"
    assert not [style for style in site.rglob("*.css") if re.search(r"url\([\"']?https?://", style.read_text())]


def test_what_pages_link_to_outside_of_docs_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {"repository/charts/distrain/values.yaml.html", "repository/image/index.html"} <= pages
    linked = re.findall(r'href="(repository/[^"#]+)', (site / "kueue.html").read_text())
    assert linked and set(linked) <= pages


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    navigation = yaml.safe_dump(yaml.safe_load(text)["nav"])
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in navigation] == []


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for path in ROOT.iterdir():
        if path.suffix == ".md" or path.name in ("benchmarks", "charts", "examples", "image", "k8s"):
            (tmp_path / path.name).symlink_to(path)
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write("\n[a](no-such-page.md) [b](moving.md#no-such-part)\n")
    done = build(tmp_path / "docs", tmp_path / "site")
    assert done.returncode != 0
    assert "no-such-page.md" in done.stderr and "no-such-part" in done.stderr
