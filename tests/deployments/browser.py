"""What a person sees of an installation: Prefect's pages and the report, in a real Chromium."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.deployments.installation import Installation

CHROMIUM = ("chromium", "google-chrome")

VIEWPORT = {"width": 1440, "height": 900}

# On a busy machine: pages ask the same server that the runs report to.
PATIENCE_MS = 60_000

READ_TABLE = "table => Array.from(table.rows, row => Array.from(row.cells, cell => cell.innerText.trim()))"

SCREENSHOTS = "POPSCAN_SCREENSHOTS"
"""Folder to which the tests save what they look at; none are saved without it."""


class Pages:
    """One tab of a browser.

    Attributes
    ----------
    page
        What it shows.
    read
        Text of every page of Prefect's that was opened.
    """

    def __init__(self, page: Page, up: Installation) -> None:
        self.page, self._up = page, up
        self.read: list[str] = []

    def prefect(self, path: str, sight: str) -> Page:
        """Open a page of Prefect's and wait until a text is seen on it."""
        self.page.goto(f"{self._up.pages['prefect']}/v2/{path}")
        return self.wait_for(sight)

    def wait_for(self, sight: str) -> Page:
        """Wait until a text is seen on the page of Prefect's that a click has led to, and take note of all its text."""
        expect(self.page.get_by_text(sight).first).to_be_visible()
        self.page.wait_for_load_state("networkidle")
        self.read.append(self.page.inner_text("body"))
        return self.page

    def artifact(self, key: str) -> Page:
        """Open the newest artifact of a key by its key's page."""
        newest = self._up.artifact(key)
        assert newest is not None, key
        self.prefect(f"artifacts/key/{key}", newest["latest_id"][:8])
        self.page.get_by_role("link", name=newest["latest_id"][:8]).first.click()
        self.page.wait_for_url(f"**/{newest['latest_id']}*")
        self.wait_for("Show Raw Data")  # its key's page has its description too, but not this
        return self.wait_for(newest["description"])

    def table(self) -> list[dict[str, str]]:
        """Rows of the table on the page, by heading."""
        expect(self.page.locator("table tbody td").first).to_be_visible()
        # At once: pages are drawn anew now and then, and nothing must change between heading and rows.
        headings, *rows = self.page.locator("table").evaluate(READ_TABLE)
        return [dict(zip(headings, row, strict=True)) for row in rows]

    def shoot(self, name: str, height: int = VIEWPORT["height"]) -> None:
        """Save a picture of the page for the documentation, if it was asked for."""
        if SCREENSHOTS not in os.environ:
            return
        self.page.set_viewport_size(VIEWPORT | {"height": height})
        self.page.wait_for_timeout(1500)  # charts and panels slide into place
        picture = Image.open(io.BytesIO(self.page.screenshot(animations="disabled")))
        few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=5)  # keeps the arteries' colours
        few.save(Path(os.environ[SCREENSHOTS]) / f"{name}.png", optimize=True)
        self.page.set_viewport_size(VIEWPORT)


@contextmanager
def browser_on(up: Installation) -> Iterator[Pages]:
    """A browser for as long as the block; a reason to skip where there is none, in CI to fail."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no 'chromium' program: apt install chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program) as browser:
        page = browser.new_page(viewport=VIEWPORT, timezone_id="UTC", locale="en-GB")
        page.set_default_timeout(PATIENCE_MS)
        yield Pages(page, up)
