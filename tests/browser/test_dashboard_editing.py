"""Dashboards on the page: made, edited and kept without code; conflicts, keys, languages, history; nothing jumps."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.client import Client
from support.cluster import Database
from support.engine import Engine
from support.waiting import bucket_lasts, until
from support.webdriver import Browser, missing

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}"),
    pytest.mark.timeout(180),
]
TITLES = "return [...document.querySelectorAll('#charts h3')].map(e => e.textContent)"
PRESS = "[...document.querySelectorAll(`${arguments[0]} button`)].find(e => e.textContent === arguments[1]).click()"
LISTED = "return [...document.querySelectorAll('#view-records tr[data-judgment] td:nth-child(2)')].map(e => e.textContent)"
WITHOUT = "return [...document.querySelectorAll('#charts .note.center')].filter(e => !e.hidden).length"
KEY = (
    "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true, cancelable: true}));"
    "return document.getElementById('announcer').textContent"
)
SHIFTS = """
window.shifted = 0;
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({type: 'layout-shift', buffered: true});
"""
WATCH_SOCKETS = """
const Own = WebSocket;
window.asked = [];
window.WebSocket = class extends Own {
  constructor(url, protocols) {
    super(url, protocols);
    window.asked.push(url);
    this.addEventListener('message', event => {
      const message = JSON.parse(event.data);
      if (message.type === 'initial_data') window.recovered = message.recovered;
    });
  }
};
"""


@pytest.fixture
async def api(engine: Engine, tenant: Client) -> AsyncIterator[Client]:
    """An admin of a tenant of its own, with some judgments."""
    token = await engine.database.token(tenant.tenant_id, "execute", "read", "admin")
    async with Client(engine.url, token, tenant.tenant_id) as client:
        rules = [{"when": "input.temperature > 90.0", "result": {"verdict": "inspect"}, "confidence": 0.9}]
        body = {"rules": rules, "default": {"result": {"verdict": "ok"}, "confidence": 0.99}, "track": ["temperature"]}
        assert (await client.call("PUT", "/api/v1/workflows/plant", body=body)).status in (200, 201)
        await bucket_lasts(40)
        for temperature in (70, 80, 95):
            await client.execute({"temperature": temperature}, "plant")
        yield client


def sign_in(browser: Browser, client: Client) -> None:
    browser.open(f"{client.url}/login")
    browser.type("#token", client.token or "")
    browser.click("button[type=submit]")


async def ready(browser: Browser) -> None:
    live = "document.querySelector('[data-testid=connection]')?.dataset.state === 'live'"
    await until(
        lambda: browser.run(f"return {live} && document.querySelectorAll('#charts .card').length > 0"), "it is live", 20
    )


async def titles(browser: Browser, wanted: list[str]) -> None:
    await until(lambda: browser.run(TITLES) == wanted, f"the charts are {wanted}", 10)


async def stored(client: Client, dashboard_id: str) -> Any:
    return (await client.get(f"/api/v1/dashboards/{dashboard_id}")).json


async def test_a_dashboard_is_made_and_edited_without_code(api: Client, browser: Browser) -> None:
    sign_in(browser, api)
    await ready(browser)
    browser.click("#dashboard-new")
    browser.type("dialog input[type=text]", "Line 3")
    browser.click("dialog input[type=checkbox]")
    browser.click("dialog button[type=submit]")
    await until(lambda: browser.value("dashboard-name", "data-testid") and "dashboard=line-3" in browser.address, "it is open")
    await until(lambda: browser.run(TITLES) == [], "it has no charts")
    browser.click("#dashboard-edit")
    browser.run(PRESS, "#editor", "Add chart…")
    await until(lambda: browser.run("return document.querySelector('dialog select') !== null"), "the form is open")
    browser.run(
        "const s = document.querySelector('dialog select'); s.value = 'tracked_inputs_chart';"
        "s.dispatchEvent(new Event('change'))"
    )
    browser.type("dialog input[maxlength='200']", "Heat")
    browser.run(PRESS, "dialog", "Add line")
    browser.type("dialog input[type=number]", "90.5")
    browser.click("dialog button[type=submit]")
    await titles(browser, ["Heat"])
    browser.run(PRESS, "#editor", "Save")
    await until(lambda: browser.run("return document.getElementById('editor').hidden"), "it was saved")
    definition = (await stored(api, "line-3"))["definition"]
    (chart,) = definition["charts"]
    assert (chart["type"], chart["title"], chart["field"]) == ("tracked_inputs_chart", "Heat", "temperature")
    assert [line["value"] for line in chart["lines"]] == [90.5]
    # The figures come without anything else being done: the socket follows the definition.
    browser.run("document.querySelector('#charts .plot').focus()")
    await until(lambda: "max 95" in browser.run(KEY, "End"), "the chart shows the input", 15)
    browser.run("scrollTo(0, 0)")
    browser.click("#dashboard-edit")
    browser.run(PRESS, "#editor", "Delete…")
    browser.click("dialog button[type=submit]")
    await until(lambda: "dashboard=" not in browser.address, "main is shown")
    assert (await api.get("/api/v1/dashboards/line-3")).status == 404
    assert browser.complaints() == []


async def test_a_conflict_is_shown_and_nothing_is_lost(api: Client, browser: Browser) -> None:
    sign_in(browser, api)
    await ready(browser)
    before = browser.run(TITLES)
    browser.click("#dashboard-edit")
    browser.click("#charts .card:first-child [data-move='1']")
    mine = [before[1], before[0], *before[2:]]
    assert browser.run(TITLES) == mine
    theirs = {"name": "Theirs", "charts": [{"id": "count", "type": "execution_count_chart", "title": "Other"}]}
    assert (await api.call("PUT", "/api/v1/dashboards/main", body=theirs)).status == 201
    browser.run(PRESS, "#editor", "Save")
    await until(lambda: browser.run("return document.querySelector('dialog h2') !== null"), "it is told")
    assert "Someone else" in browser.run("return document.querySelector('dialog').textContent")
    assert browser.run(TITLES) == mine, "the draft is still there"
    assert (await stored(api, "main"))["version"] == 1, "and theirs was not overwritten"
    browser.run(PRESS, "dialog", "Save mine over theirs")
    await until(lambda: browser.run("return document.getElementById('editor').hidden"), "it was saved")
    now = await stored(api, "main")
    assert now["version"] == 2
    assert [chart["id"] for chart in now["definition"]["charts"]][:2] == ["time", "count"]
    # The browser itself reports the 412.
    assert all("412" in complaint for complaint in browser.complaints())


async def test_keys_read_points_and_open_their_judgments(api: Client, browser: Browser) -> None:
    sign_in(browser, api)
    await ready(browser)
    await until(lambda: browser.value("total-executions") == "3", "there are figures")
    browser.run("document.querySelector('[data-chart=count] .plot').focus()")
    await until(lambda: "all 3, failed 0" in browser.run(KEY, "End"), "the point is said")
    assert "all 0" in browser.run(KEY, "ArrowLeft")
    assert "failed 0" in browser.run(KEY, "End")
    browser.run(KEY, "ArrowDown")
    assert "failed" not in browser.run("return document.getElementById('announcer').textContent"), "one line alone"
    browser.run(KEY, "Enter")
    assert "#/judgments?created_from=" in browser.address
    assert "created_to=" in browser.address
    browser.run("history.back()")
    await until(lambda: not browser.run("return document.getElementById('view-dashboard').hidden"), "it goes back")


async def test_the_judgments_behind_a_point_are_of_the_dashboards_workflows(api: Client, browser: Browser) -> None:
    for workflow in ("check", "other"):
        await api.put_workflow(workflow)
        await api.judge(70, workflow)
    body = {"name": "Two", "workflow_ids": ["plant", "other"], "charts": [{"id": "count", "type": "execution_count_chart"}]}
    assert (await api.call("PUT", "/api/v1/dashboards/two", body=body)).status == 201
    sign_in(browser, api)
    await ready(browser)
    browser.open(f"{api.url}/?dashboard=two")
    await ready(browser)
    browser.run("document.querySelector('[data-chart=count] .plot').focus()")
    await until(lambda: "all 4" in browser.run(KEY, "End"), "three of plant and one of other", 20)
    browser.run(KEY, "Enter")
    await until(lambda: len(browser.run(LISTED)) == 4, "they are listed")
    assert sorted(browser.run(LISTED)) == ["other", "plant", "plant", "plant"]


async def test_behind_a_bin_and_behind_a_tracked_input_is_what_they_count(api: Client, browser: Browser) -> None:
    late = datetime.now(UTC) - timedelta(hours=3)
    for temperature in (60, 99):
        assert (await api.execute({"temperature": temperature}, "plant", occurred_at=late.isoformat())).status == 200
    charts = [
        {"id": "sure", "type": "confidence_chart"},
        {"id": "heat", "type": "tracked_inputs_chart", "field": "temperature"},
    ]
    body = {"name": "Behind", "timeframe": "6h", "charts": charts}
    assert (await api.call("PUT", "/api/v1/dashboards/behind", body=body)).status == 201
    sign_in(browser, api)
    await ready(browser)
    browser.open(f"{api.url}/?dashboard=behind")
    await ready(browser)

    async def open_point(chart: str, keys: list[str], wanted: str) -> int:
        """Read a point, then go to the judgments behind it; returns how many it counts."""
        focus, said = f"document.querySelector('[data-chart={chart}] .plot').focus();", ""

        def read() -> bool:
            nonlocal said
            said = [browser.run(focus + KEY, one) for one in keys][-1]
            return wanted in said

        await until(read, f"{wanted} is said", 20)
        browser.run(KEY, "Enter")
        count = int(said.rsplit(" ", 1)[1])
        await until(lambda: len(browser.run(LISTED)) == count, f"the list shows the {count} that it says")
        return count

    def value(name: str) -> str:
        return str(browser.run("return document.getElementById(`records-${arguments[0]}`).value", name))

    assert await open_point("sure", ["End"], "0.938 to 1.000: judgments 3") == 3
    assert (value("confidence_min"), value("confidence_max")) == ("0.938188", "")
    browser.run("document.getElementById('records-confidence_min').value = ''")
    browser.click("#view-records .filters button[type=submit]")
    await until(lambda: len(browser.run(LISTED)) == 5, "without that filter, all of the frame")
    browser.run("history.go(-2)")
    await until(lambda: not browser.run("return document.getElementById('view-dashboard').hidden"), "it goes back")
    assert await open_point("sure", ["End", "ArrowLeft"], "judgments 2") == 2
    browser.run("history.back()")
    await until(lambda: not browser.run("return document.getElementById('view-dashboard').hidden"), "it goes back")
    buckets = round((datetime.now(UTC).timestamp() // 1800) - (late.timestamp() // 1800))
    assert await open_point("heat", ["End", *["ArrowLeft"] * buckets], "count 2") == 2
    assert value("tracked") == "temperature"
    assert value("occurred_from") < value("occurred_to")
    assert value("created_from") == ""
    assert browser.run("return document.querySelector('#view-records th.when').textContent") == "Occurred"
    titles = "return [...document.querySelectorAll('#view-records tr[data-judgment] a')].map(e => e.title)"
    assert [datetime.fromisoformat(one) for one in browser.run(titles)] == [late, late]
    address = browser.address
    browser.type("#records-confidence_max", "1e")
    browser.click("#view-records .filters button[type=submit]")
    assert browser.run("return document.activeElement.id") == "records-confidence_max", "what is no number is not left out"
    assert browser.address == address
    browser.run("[...document.querySelectorAll('#view-records .filters button')].find(e => e.textContent === 'Clear').click()")
    await until(lambda: len(browser.run(LISTED)) == 5, "all of them, without a filter")
    assert browser.run("return document.querySelector('#view-records th.when').textContent") == "Created"
    assert browser.complaints() == []


async def test_any_workflow_can_be_picked(api: Client, browser: Browser) -> None:
    """Also one that was not judged by yet, which no message names."""
    for name in ("never-judged", "Never.2"):
        await api.put_workflow(name)
    sign_in(browser, api)
    await ready(browser)
    options = "return [...document.getElementById('workflow-pick').options].map(e => e.textContent)"
    await until(lambda: browser.run(options) == ["All workflows", "plant", "Another…"], "it lists those of the messages")
    pick = "const s = document.getElementById('workflow-pick'); s.focus(); s.value = '?'; s.dispatchEvent(new Event('change'))"
    browser.run(pick)
    browser.type("dialog input", "no id")
    browser.click("dialog button[type=submit]")
    assert "letters, digits" in browser.run("return document.querySelector('dialog .error').textContent")
    browser.run("document.querySelector('dialog input').value = ''")
    browser.type("dialog input", "NEVER")
    suggested = "return [...document.querySelectorAll('dialog datalist option')].map(e => e.value).sort()"
    await until(lambda: browser.run(suggested) == ["Never.2", "never-judged"], "those that have it are suggested")
    browser.run("document.querySelector('dialog input').value = 'never-judged'")
    browser.click("dialog button[type=submit]")
    await until(lambda: "workflow_id=never-judged" in browser.address, "it is shown")
    await until(lambda: browser.value("total-executions") == "0", "there are no figures of it")
    assert browser.run("return document.getElementById('workflow-pick').value") == "never-judged"
    browser.run(pick)
    browser.run("document.querySelector('dialog').close()")
    assert browser.run("return document.getElementById('workflow-pick').value") == "never-judged", "who leaves changes nothing"
    assert browser.complaints() == []


async def test_the_past_is_shown_from_the_api(api: Client, browser: Browser) -> None:
    sign_in(browser, api)
    await ready(browser)
    browser.click("#earlier")
    await until(lambda: "until=" in browser.address, "the address says so")
    await until(lambda: browser.run("return document.getElementById('history').ariaBusy === 'false'"), "it is loaded")
    assert browser.run("return document.getElementById('history-span').textContent").startswith("History")
    browser.run("document.querySelector('[data-chart=count] .plot').focus()")
    assert "all 0" in browser.run(KEY, "End"), "nothing was judged an hour ago"
    browser.click("#to-live")
    await until(
        lambda: "all 3" in browser.run("document.querySelector('[data-chart=count] .plot').focus();" + KEY, "End"), "live"
    )
    assert browser.complaints() == []


async def test_the_past_is_asked_for_again_when_the_server_is_back(
    database: Database, start_engine: Callable[..., Engine], browser: Browser
) -> None:
    engine = start_engine(database)
    browser.open(f"{engine.url}/?code={engine.code}")
    await ready(browser)
    async with Client(engine.url, "test-token", "demo") as client:
        await client.judge(70, "test-workflow-0")
    await until(lambda: browser.value("total-executions") == "1", "there are figures")
    engine.port = engine.listening_port
    engine.kill()
    browser.click("#earlier")
    await until(lambda: browser.run(WITHOUT) > 0, "it says that there are no figures")
    engine.start()
    await until(lambda: browser.run(WITHOUT) == 0, "they are there", 40)
    assert "until=" in browser.address
    assert engine.terminate() == 0


@pytest.mark.parametrize("width", [360, 1280])
async def test_long_names_fit(api: Client, browser: Browser, width: int) -> None:
    charts = [{"id": "count", "type": "execution_count_chart", "title": "W" * 200}]
    assert (await api.call("PUT", "/api/v1/dashboards/long", body={"name": "W" * 200, "charts": charts})).status == 201
    browser.width(width)
    sign_in(browser, api)
    await ready(browser)
    browser.open(f"{api.url}/?dashboard=long")
    await titles(browser, ["W" * 200])
    browser.run("const e = document.getElementById('firing'); e.hidden = false; e.textContent = '99+'")  # as many alerts do
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


async def test_what_cannot_be_shown_is_not_waited_for(api: Client, engine: Engine, browser: Browser) -> None:
    await engine.database.do(
        "INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,"
        f" execution_time_ms) VALUES ('{api.tenant_id}', 'by hand', '{{}}', '{{}}', 1, 'rule', 1)"
    )
    sign_in(browser, api)
    await ready(browser)
    await until(lambda: "by hand" in browser.run("return document.body.innerText"), "it is in the table")
    link = "return document.querySelector('a[data-workflow=\"{}\"]').hasAttribute('href')"
    assert browser.run(link.format("plant"))
    assert not browser.run(link.format("by hand")), "figures of it alone cannot be asked for"
    browser.open(f"{api.url}/?workflow_id=by%20hand&dashboard=none")
    await ready(browser)
    assert "none" in browser.run("return document.getElementById('notice').textContent"), "it says what is not there"


async def test_korean_is_chosen_and_kept(api: Client, browser: Browser) -> None:
    sign_in(browser, api)
    await ready(browser)
    browser.run("const s = document.getElementById('language'); s.value = 'ko'; s.dispatchEvent(new Event('change'))")
    await until(lambda: browser.run("return document.documentElement.lang") == "ko", "it is Korean")
    await ready(browser)
    assert "대시보드" in browser.run("return document.querySelector('nav').textContent")
    browser.run("location.hash = '#/judgments?created_from=gestern'")
    told = "return [...document.querySelectorAll('.notice, [role=alert], [role=status]')].map((one) => one.innerText).join(' ')"
    await until(lambda: "값이 올바르지 않습니다. (created_from" in browser.run(told), "what is wrong is said in Korean")
    browser.width(360)
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    browser.open(f"{api.url}/login")
    assert browser.run("return document.querySelector('h1').textContent") == "로그인"


@pytest.mark.parametrize("width", [360, 1280])
async def test_nothing_jumps_while_figures_come(api: Client, browser: Browser, width: int) -> None:
    browser.width(width)
    sign_in(browser, api)
    await ready(browser)
    browser.run(SHIFTS)
    await until(lambda: browser.value("total-executions") == "3", "there are figures")
    for number in range(5):
        await api.execute({"temperature": 50 + number}, f"test-workflow-{number}" if number % 2 else "plant")
    await until(lambda: int(browser.value("total-executions") or 0) >= 6, "they came")
    assert browser.run("return window.shifted") < 0.02


async def test_coming_back_it_names_what_it_saw_last(
    database: Database, start_engine: Callable[..., Engine], browser: Browser
) -> None:
    """The whole or the rest: after both the page shows what the table has."""
    engine = start_engine(database)
    browser.open(f"{engine.url}/?code={engine.code}")
    await ready(browser)
    async with Client(engine.url, "test-token", "demo") as client:
        for _ in range(5):
            await client.judge(70, "test-workflow-0")
        await until(lambda: browser.value("total-executions") == "5", "there are figures")
        browser.run(WATCH_SOCKETS)
        browser.run("dispatchEvent(new Event('pagehide'))")  # as when the browser puts the page aside
        for _ in range(3):
            await client.judge(95, "test-workflow-1")
        assert browser.value("total-executions") == "5"
        browser.run("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        await until(lambda: browser.value("total-executions") == "8", "it shows what it missed", 20)
    asked = browser.run("return window.asked")
    assert asked
    assert all("position=" in url for url in asked), asked
    assert browser.run("return window.recovered") is not None
    assert engine.terminate() == 0
