"""From a point to the judgments behind it, to one judgment's record; and the live tail, in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.client import Client
from support.cluster import Database
from support.engine import Engine
from support.waiting import until
from support.webdriver import Browser, missing

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}"),
    pytest.mark.timeout(180),
]
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
ROWS = "return [...document.querySelectorAll('#view-{} tr[data-judgment]')].map((row) => row.dataset.judgment)"
NASTY = "<img src=x onerror=\"document.title='taken'\">"
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shifted += one.value; })
  .observe({type: "layout-shift", buffered: false});
"""


@pytest.fixture
def signed_in(database: Database, start_engine: Callable[..., Engine], browser: Browser) -> Engine:
    engine = start_engine(database)
    browser.open(f"{engine.url}/?code={engine.code}")
    return engine


def go(browser: Browser, hash_: str) -> None:
    browser.run("location.hash = arguments[0]", hash_)


def rows(browser: Browser, panel: str) -> list[str]:
    found: list[str] = browser.run(ROWS.replace("{}", panel))
    return found


def text(browser: Browser, selector: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))


def key(browser: Browser, name: str) -> None:
    for kind in ("rawKeyDown", "char", "keyUp"):
        if kind != "char" or len(name) == 1:
            code = {" ": 32, "Escape": 27, "ArrowDown": 40, "Enter": 13}[name]
            browser.protocol(
                "Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, text=name if kind == "char" else ""
            )


async def test_from_a_point_to_a_record_and_back(signed_in: Engine, database: Database, browser: Browser) -> None:
    async with Client(signed_in.url, "test-token", "demo") as client:
        await client.put_workflow("check")
        made: list[dict[str, Any]] = [await client.judge(value) for value in (10, 70, 20, 80, 30)]
        nasty = (await client.execute({"value": 5, "text": NASTY, "nested": {"deep": [1, True]}})).json
        wanted = [made[0], made[2], made[4], nasty]
        go(browser, f"#/judgments?result=inspect&workflow_id=check&created_from={made[0]['created_at']}")
        newest_first = [one["judgment_id"] for one in wanted[::-1]]
        await until(lambda: rows(browser, "records") == newest_first, "the judgments behind the point")
        browser.run("document.querySelector('#view-records tr[data-judgment] a').focus()")
        key(browser, "ArrowDown")
        assert browser.run("return document.activeElement.closest('tr').dataset.judgment") == newest_first[1]
        browser.run(f"document.querySelector('tr[data-judgment=\"{newest_first[0]}\"] a').click()")
        await until(lambda: browser.value("record-result") == "inspect", "the record")
        record = (await client.get(f"/api/v1/judgments/{nasty['judgment_id']}")).json
        assert browser.value("record-id") == nasty["judgment_id"]
        assert browser.value("record-took") == f"{record['execution_time_ms']}"
        assert browser.value("record-confidence") == "0.9"
        shown = text(browser, "[data-testid=record]")
        assert NASTY in shown
        assert "nested.deep[1]" in shown
        states = "return [...document.querySelectorAll('[data-testid=rules] > li')].map((one) => one.dataset.state)"
        assert browser.run(states) == ["matched"]
        assert "input.value = 5" in shown
        assert browser.run("return document.title") != "taken"
        assert browser.run("return document.querySelectorAll('#view-records img').length") == 0
        key(browser, "Escape")
        await until(lambda: "result=inspect" in browser.address, "it goes back to the list")
        assert rows(browser, "records") == newest_first
    assert browser.complaints() == []
    assert signed_in.terminate() == 0


async def test_the_tail_follows_pauses_and_filters(signed_in: Engine, browser: Browser) -> None:
    async with Client(signed_in.url, "test-token", "demo") as client:
        await client.put_workflow("check")
        go(browser, "#/tail?result=inspect")
        await until(lambda: browser.value("tail-connection", "data-state") == "live", "the tail is live", 30)
        browser.run(SHIFTS)
        made = [await client.judge(value) for value in (10, 70, 20)]
        expected = [made[2]["judgment_id"], made[0]["judgment_id"]]
        await until(lambda: rows(browser, "tail") == expected, "what fits, newest first")
        browser.run("document.activeElement.blur()")
        key(browser, " ")
        assert browser.value("tail-pause", "aria-pressed") == "true"
        more = [await client.judge(value) for value in (1, 2, 99, 70)]
        await until(lambda: browser.value("tail-count") == "3", "it says how many came meanwhile")
        assert rows(browser, "tail") == expected, "nothing moves while it is paused"
        key(browser, " ")
        await until(lambda: rows(browser, "tail") == [one["judgment_id"] for one in more[2::-1]] + expected, "it goes on")
        assert browser.value("tail-count") == "5"
        assert browser.run("return window.shifted") < 0.1
        go(browser, "#/judgments")
        await until(lambda: len(rows(browser, "records")) >= 7, "the list of all")
    assert browser.complaints() == []
    assert signed_in.terminate() == 0


@pytest.mark.parametrize("language", ["en", "ko"])
async def test_panels_fit_a_phone(signed_in: Engine, browser: Browser, language: str, tmp_path: Path) -> None:
    browser.run("localStorage.setItem('judgify.language', arguments[0])", language)
    browser.width(360)
    async with Client(signed_in.url, "test-token", "demo") as client:
        made = await client.judge(70, "test-workflow-0", context={"shift": "day"})
        for hash_, there in (
            ("#/judgments", lambda: rows(browser, "records")),
            (f"#/judgments/{made['judgment_id']}", lambda: browser.value("record-id")),
            ("#/tail", lambda: browser.value("tail-connection", "data-state") == "live"),
        ):
            browser.open(f"{signed_in.url}/{hash_}")
            browser.run("location.reload()")
            await until(there, f"{hash_} is there", 30)
            assert browser.run(OVERFLOW) <= 0, hash_
            assert browser.run("return document.documentElement.lang") == language
            browser.picture(tmp_path / f"{language}-{hash_[2:6]}-{'one' if 'judgments/' in hash_ else 'all'}.png")
    assert browser.complaints() == []
    assert signed_in.terminate() == 0
