"""What all browser tests share: Chromium, and a picture of what it last showed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.webdriver import Browser


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path)
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            made.picture(tmp_path / "last.png")
        made.end()
