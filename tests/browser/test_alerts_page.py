"""Alerts on the page: one comes by itself, says why, and is acknowledged and silenced there."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

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
QUICK = {"JUDGIFY_ALERTS_INTERVAL_S": "0.3", "JUDGIFY_ALERTS_SETTLE_S": "0"}
BUSY = {"kind": "condition", "when": "window.count >= 5", "window_s": 300, "severity": "critical", "summary": "<b>Busy</b>"}
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
LISTED = "return [...document.querySelectorAll('[data-alert]')].map((one) => [one.dataset.state, one.innerText])"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path)
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            made.picture(tmp_path / "last.png")
        made.end()


async def test_an_alert_comes_and_is_seen_to(
    database: Database, start_engine: Callable[..., Engine], browser: Browser, tmp_path: Path
) -> None:
    engine = start_engine(database, settings=QUICK)
    browser.open(f"{engine.url}/login")
    browser.type("#token", "test-token")
    browser.click("button[type=submit]")
    await until(lambda: browser.value("connection", "data-state") == "live", "the page is live")
    browser.run("location.hash = '#/alerts'")
    async with Client(engine.url, "test-token", "demo") as client:
        assert (await client.call("PUT", "/api/v1/alert-rules/busy", body=BUSY)).status == 201
        for _ in range(6):
            await client.judge(70, "test-workflow-0")
        await until(lambda: browser.run(LISTED), "the alert is listed by itself", 60)
        ((state, words),) = browser.run(LISTED)
        listed = (await client.get("/api/v1/alerts?state=firing")).json["alerts"]
        assert state == "firing"
        assert listed[0]["reason"] in words
        assert "<b>Busy</b>" in words
        browser.click("[data-of^=acknowledge]")

        async def acknowledged() -> bool:
            return (await client.get("/api/v1/alerts")).json["alerts"][0]["acknowledged_at"] is not None

        await until(acknowledged, "it is acknowledged")
        await until(lambda: browser.run("return !document.querySelector('[data-of^=acknowledge]')"), "and shown so")
        browser.click("[data-of^=silence]")
        browser.type("dialog input[name=comment]", "we know")
        browser.click("dialog button[value=yes]")

        async def silenced() -> list[str]:
            return [one["comment"] for one in (await client.get("/api/v1/silences")).json["silences"]]

        assert await until(silenced, "it is silenced") == ["we know"]
        await until(
            lambda: browser.run("return document.querySelector('.silences').innerText.includes('we know')"), "and shown so"
        )
        browser.width(360)
        assert browser.run(OVERFLOW) <= 0
    assert browser.complaints() == []
    assert engine.terminate() == 0
