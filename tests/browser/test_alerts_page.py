"""Alerts on the page: one comes by itself, says why, and is acknowledged and silenced there."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

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
        behind = browser.run("return document.querySelector('[data-of^=judgments]').getAttribute('href')")
        since = parse_qs(behind.split("?")[1])["created_from"][0]
        assert since == listed[0]["numbers"]["from"] < listed[0]["started_at"], "what made it fire came before it fired"
        browser.run(
            "window.kept = document.querySelector('[data-alert]'); document.querySelector('[data-alert] summary').focus()"
        )
        assert (await client.call("PUT", "/api/v1/alert-rules/more", body={**BUSY, "summary": "More"})).status == 201
        await until(lambda: not browser.run("return window.kept.isConnected"), "the list is made anew", 60)
        assert browser.run("return document.activeElement.tagName") == "SUMMARY", "the focus stays where it was"
        assert (await client.call("PUT", "/api/v1/alert-rules/more", body={**BUSY, "enabled": False})).status == 200
        await until(lambda: len(browser.run(LISTED)) == 1, "it is the only one again", 60)
        browser.run("document.querySelector('[data-of^=acknowledge]').focus()")
        browser.click("[data-of^=acknowledge]")

        async def acknowledged() -> bool:
            return (await client.get("/api/v1/alerts?state=firing")).json["alerts"][0]["acknowledged_at"] is not None

        await until(acknowledged, "it is acknowledged")
        await until(lambda: browser.run("return !document.querySelector('[data-of^=acknowledge]')"), "and shown so")
        assert browser.run("return document.activeElement.dataset.of").startswith("silence"), "the next button has the focus"
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
