"""What the site does beyond its pages: files of the repository that pages link to are part of it.

A link that leads out of docs/ (`../examples/chat.yaml`) becomes one to a page that shows the file, so that the site is
whole without a network and MkDocs can check each of its links.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)#\s]+)(#[^)]*)?\)")
SHOWN = "repository"
"""Folder of the site with what does not lie in docs/."""
LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".py": "python", ".json": "json", ".jsonl": "json"}
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)


def targets(source: str, text: str) -> dict[str, str]:
    """Each relative link of a page -> what it leads to. source, targets: paths in the repository."""
    found = {link for _, link, _ in LINK.findall(FENCE.sub("", text))}
    links = {link for link in found if "://" not in link and not link.startswith("mailto:")}
    return {link: posixpath.normpath(posixpath.join(posixpath.dirname(source), link)) for link in links}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file that pages link to, and for what those link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    known: set[str] = set()
    while waiting:
        source = waiting.pop()
        for target in targets(source, (ROOT / source).read_text()).values():
            if target in known or _is_of_the_site(target):
                continue
            known.add(target)
            path = ROOT / target
            if path.suffix == ".md":
                waiting.append(target)
            if path.suffix in (".png", ".svg"):
                files.append(File.generated(config, f"{SHOWN}/{target}", abs_src_path=str(path)))
            elif path.is_file():
                files.append(File.generated(config, _page_of(target), content=_content(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads each link to the page that shows its file. A link to a folder, which has no page, becomes its text."""
    shown = page.file.src_uri
    source = _source_of(shown)
    found = targets(source, markdown)

    def replaced(match: re.Match[str]) -> str:
        start, link, anchor = match[1], match[2], match[3] or ""
        target = found.get(link)
        if target is None or (_is_of_the_site(target) and source.startswith("docs/")):
            return match[0]
        if (ROOT / target).is_dir():
            return start[1:-2]
        here = target.removeprefix("docs/") if _is_of_the_site(target) else _page_of(target)
        return f"{start}{posixpath.relpath(here, posixpath.dirname(shown) or '.')}{anchor})"

    return LINK.sub(replaced, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Writes what Material's script reads where a page is opened from a folder, without which it ends there with an
    error and lays out no sidebar. It is empty: browsers allow no search in a folder."""
    folder = Path(config.site_dir) / "search"
    folder.mkdir(exist_ok=True)
    (folder / "search_index.js").write_text('var __index = {"config": {}, "docs": []};\n')


def _is_of_the_site(target: str) -> bool:
    return target.startswith("docs/") and not target.endswith((".py", ".yaml"))


def _page_of(target: str) -> str:
    """The page that shows a file."""
    if target.endswith((".png", ".svg")):
        return f"{SHOWN}/{target}"
    return f"{SHOWN}/{target}" if target.endswith(".md") else f"{SHOWN}/{target}.md"


def _source_of(shown: str) -> str:
    """The file of the repository that a page shows."""
    if not shown.startswith(f"{SHOWN}/"):
        return f"docs/{shown}"
    target = shown.removeprefix(f"{SHOWN}/")
    return target if (ROOT / target).exists() else target.removesuffix(".md")


def _content(path: Path) -> str:
    """A file as a page: Markdown as it is, all else as a block."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    name = path.relative_to(ROOT).as_posix()
    return f"# {name}\n\n```{LANGUAGES.get(path.suffix, 'text')}\n{text}```\n"
