"""The web UI's lineage page in a real browser.

Here: drawing the page and waiting for what is on it. Not here: starting the web server.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_GROUPS = ("intake", "market", "evaluation", "decision")
_PATIENCE_MS = 30_000


def draw_lineage(url: str, assets: Iterable[str], state: str, picture: Path) -> None:
    """Open the lineage of all assets with every group expanded, and take a picture of it.

    Args:
        url: of the web server.
        assets: whose names must be drawn in full.
        state: a text that a node shows once its state has been loaded.
        picture: PNG file to write.

    Raises:
        playwright.sync_api.TimeoutError: something of this does not appear.
    """
    expanded = ",".join(f"global@global:{group}" for group in _GROUPS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            # So large that every node is drawn in full, with its whole name; what lies outside is not drawn at all.
            page = browser.new_page(viewport={"width": 2600, "height": 2000})
            page.goto(f"{url}/asset-groups?expanded={expanded}")
            for name in assets:
                page.get_by_text(name, exact=True).first.wait_for(timeout=_PATIENCE_MS)
            page.get_by_text(state, exact=True).first.wait_for(timeout=_PATIENCE_MS)
            page.screenshot(path=picture)
        finally:
            browser.close()
