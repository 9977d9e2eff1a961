"""The page in a real browser: it opens with the printed address, follows the figures, and comes back after a crash."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.client import Client
from support.cluster import Database
from support.engine import Engine
from support.waiting import until
from support.webdriver import UNREACHED, Browser, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}")
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def state(browser: Browser, wanted: str, within_s: float = 15) -> None:
    await until(lambda: browser.value("connection", "data-state") == wanted, f"the connection is {wanted}", within_s)


async def shows(browser: Browser, total: int, within_s: float = 5) -> None:
    await until(lambda: browser.value("total-executions") == str(total), f"the page shows {total}", within_s)


async def judge(engine: Engine, numbers: range) -> None:
    async with Client(engine.url, "test-token", "demo") as client:
        await asyncio.gather(
            *(client.judge(70, "test-workflow-0") for _ in numbers),
            *(client.execute({"temperature": "hot"}, "test-workflow-1") for _ in numbers[::10]),
        )


async def test_page_follows_the_figures(database: Database, start_engine: Callable[..., Engine], browser: Browser) -> None:
    engine = start_engine(database)
    browser.open(f"{engine.url}/?code={engine.code}")
    assert browser.address.rstrip("/") == engine.url, "the code leaves the address at once"
    await state(browser, "live")
    await shows(browser, 0)
    await judge(engine, range(50))
    stored = await database.value("SELECT count(*) FROM judgment_executions")
    assert stored == 55
    await shows(browser, stored)
    assert browser.value("failed-executions") == "5"
    assert float(browser.value("success-rate") or 0) == pytest.approx(50 / 55, abs=1e-5)
    assert browser.value("method-rule") == "55"
    assert browser.value("result-ok") == "50"
    assert browser.value("result-failed") == "5"
    assert browser.run("return document.querySelectorAll('.workflow-rows tr').length") == 2
    assert browser.run("return document.querySelectorAll('canvas').length") >= 5
    for frame in ("6h", "24h", "7d", "1h"):
        browser.run("document.getElementById(arguments[0]).click()", f"timeframe-{frame}")
        await state(browser, "live")
        await shows(browser, stored)
    await judge(engine, range(10))
    await shows(browser, 66)
    assert browser.complaints() == []
    assert engine.terminate() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_nothing_overflows(engine: Engine, browser: Browser, width: int, scheme: str, tmp_path: Path) -> None:
    """The dashboard with and without figures, the form, and the description of the API."""
    browser.width(width)
    browser.protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(f"{engine.url}/login")
    assert browser.run(OVERFLOW) <= 0, "the form"
    browser.type("#token", "test-token")
    browser.click("button[type=submit]")
    await state(browser, "live")
    await judge(engine, range(5))
    await until(lambda: int(browser.value("total-executions") or 0) > 0, "there are figures")
    assert browser.run(OVERFLOW) <= 0, "the dashboard"
    browser.open(f"{engine.url}/docs")
    await until(lambda: browser.run("return document.body.innerText.includes('/api/v1/judgments/execute')"), "the API is shown")
    assert browser.run(OVERFLOW) <= 0, "the description"
    assert browser.complaints() == []


async def test_wrong_token_is_told_and_signing_out_works(engine: Engine, browser: Browser) -> None:
    browser.open(engine.url)
    assert browser.address == f"{engine.url}/login"
    browser.type("#token", "wrong")
    browser.click("button[type=submit]")
    await until(lambda: browser.run("return document.getElementById('sign-in-error').textContent"), "the reason is shown")
    assert browser.address == f"{engine.url}/login"
    browser.run("document.getElementById('token').value = ''")
    browser.type("#token", "test-token")
    browser.click("button[type=submit]")
    await state(browser, "live")
    browser.click("#sign-out")
    await until(lambda: browser.address == f"{engine.url}/login", "it goes back to the form")
    browser.open(engine.url)
    assert browser.address == f"{engine.url}/login"
    # The browser itself reports the 401 that the wrong token got; nothing else may be there.
    assert all("401" in complaint for complaint in browser.complaints())


async def test_page_comes_back_after_kill_9(database: Database, start_engine: Callable[..., Engine], browser: Browser) -> None:
    engine = start_engine(database)
    browser.open(f"{engine.url}/?code={engine.code}")
    await state(browser, "live")
    await judge(engine, range(20))
    await shows(browser, 22)
    browser.run("window.sameDocument = true")
    engine.port = engine.listening_port
    engine.kill()
    await state(browser, "reconnecting")
    assert browser.value("total-executions") == "22", "the last figures stay"
    await database.do("DELETE FROM judgment_executions WHERE workflow_id = 'test-workflow-1'")
    engine.start()
    await judge(engine, range(30))
    stored = await database.value("SELECT count(*) FROM judgment_executions")
    assert stored == 53
    await state(browser, "live", 25)
    await shows(browser, stored)
    assert browser.run("return window.sameDocument") is True, "without loading the page again"
    # The browser itself reports each attempt that found no server.
    assert [one for one in browser.complaints() if not UNREACHED.search(one)] == []
    assert engine.terminate() == 0


async def test_it_shows_up_to_when_all_is_verified(
    database: Database, start_engine: Callable[..., Engine], browser: Browser
) -> None:
    engine = start_engine(database)
    browser.open(f"{engine.url}/?code={engine.code}")
    await state(browser, "live")
    await judge(engine, range(20))
    judged_s = time.time()
    await until(lambda: int(browser.value("verified-through") or 0) > judged_s, "the page shows it", 40)
    stored = await database.value("SELECT extract(epoch FROM verified_through)::int FROM reconciliation")
    assert int(browser.value("verified-through")) <= stored + 60
    assert browser.complaints() == []
    assert engine.terminate() == 0
