"""Takes pictures of the built site in headless Chromium: desktop and phone, light and dark.

`python docs/screenshots.py CHROMIUM FOLDER [PAGE ...]` after `make docs`, where CHROMIUM is a program such as
/usr/bin/chromium. Needs the package playwright, which is in no extra: browsers are not in package registries.
"""

import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import sync_playwright

SITE = Path(__file__).parents[1] / "_site"
PAGES = ("index", "first-run", "architecture", "settings", "values", "moving", "measured", "strategies")
WIDTHS = {"desktop": 1280, "phone": 390}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
HEIGHT = 1100
"""Pixels that are shown of a page."""


def main(chromium: str, folder: str, *pages: str) -> None:
    """Takes all pictures; a page that scrolls sideways ends it with 1."""
    wide = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-zygote", "--disable-dev-shm-usage"])
        for name, width in WIDTHS.items():
            for scheme in SCHEMES:
                context = browser.new_context(
                    viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, offline=True
                )
                view = context.new_page()
                for page in pages or PAGES:
                    view.goto((SITE / f"{page}.html").as_uri())
                    target = Path(folder) / f"{page.replace('/', '-')}-{name}-{scheme}.png"
                    view.screenshot(path=target)
                    if view.evaluate("document.documentElement.scrollWidth") > width:
                        wide.append(target.name)
                context.close()
        browser.close()
    if wide:
        sys.exit(f"these are wider than the screen: {', '.join(wide)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
