// The dashboard: joins connection, state and page. A message changes the state at once; the page follows at most once
// per animation frame, and not at all while nobody can see it.
import { makeChart, type Chart, type ChartSpec } from "./charts";
import { Connection, type Status } from "./connection";
import * as format from "./format";
import { parse, type Timeframe } from "./protocol";
import { historySeries, liveSeries, niceCeiling } from "./series";
import { currentSession, signOut, type Session } from "./session";
import { apply, initialState, serverNow, timeframeS, type State } from "./state";
import { watchTheme } from "./theme";
import { byId, commands, renderConnection, renderEmpty, renderFigures, renderLists, renderWorkflows } from "./view";

const exampleWorkflow = "test-workflow-3";
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const now = (): number => performance.now() / 1000;

let state: State = initialState;
let frame = 0;
let ticker = 0;

// ---- What is asked for: in the address of the page, so that it can be kept and shared.

function asked(): { timeframe: Timeframe; workflowId: string | null } {
  const query = new URLSearchParams(location.search);
  const timeframe = query.get("timeframe") ?? "";
  return { timeframe: timeframe in timeframeS ? (timeframe as Timeframe) : "1h", workflowId: query.get("workflow_id") };
}

function socketUrl(): string {
  const { timeframe, workflowId } = asked();
  const url = new URL("/ws/dashboards/main", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("timeframe", timeframe);
  if (workflowId !== null) url.searchParams.set("workflow_id", workflowId);
  return url.href;
}

function ask(timeframe: Timeframe, workflowId: string | null): void {
  const query = new URLSearchParams({ timeframe });
  if (workflowId !== null) query.set("workflow_id", workflowId);
  history.pushState(null, "", `?${query}`);
  follow();
}

/** Makes page and connection follow the address. */
function follow(): void {
  const { timeframe, workflowId } = asked();
  byId<HTMLInputElement>(`timeframe-${timeframe}`).checked = true;
  byId("filter").hidden = workflowId === null;
  byId("filter-name").textContent = workflowId ?? "";
  byId<HTMLAnchorElement>("filter-clear").href = `?timeframe=${timeframe}`;
  const { define, judge } = commands(workflowId ?? exampleWorkflow);
  byId("command-define").textContent = define;
  byId("command-judge").textContent = judge;
  byId("history").setAttribute("aria-busy", "true");
  connection.open();
}

// ---- Charts

const fromZero = (_: number, greatest: number): [number, number] => [0, niceCeiling(greatest)];
const minutes = [60, 120, 180, 300, 600];
const longSteps = [300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800, 259200, 604800];
const liveBase = { when: format.timeSeconds, tick: format.time, steps: minutes, sync: "live" };
const historyBase = {
  when: (middle: number): string => {
    const start = middle - state.bucketS / 2;
    return `${state.timeframe === "7d" ? format.dateTime(start) : format.time(start)}–${format.time(start + state.bucketS)}`;
  },
  tick: (at: number, step: number): string => (step >= 86400 || midnight(at) ? format.date(at) : format.time(at)),
  steps: longSteps,
  sync: "history",
};
const midnight = (at: number): boolean => new Date(at * 1000).getHours() === 0 && new Date(at * 1000).getMinutes() === 0;
const timeLines: ChartSpec["lines"] = [
  { label: "mean", color: "--accent", kind: "line" },
  { label: "p95", color: "--second", kind: "line" },
];
const times = { lines: timeLines, range: fromZero, axis: format.axisMilliseconds, value: format.milliseconds };

function chart(id: string, spec: ChartSpec): Chart {
  const made = makeChart(byId(id), spec, (words) => (byId("announcer").textContent = words));
  charts.push(made);
  return made;
}
const charts: Chart[] = [];
const liveRate = chart("plot-rate", {
  ...liveBase,
  lines: [
    { label: "all", color: "--accent", fill: "--accent-soft", kind: "curve" },
    { label: "failed", color: "--bad", fill: "--bad-soft", kind: "line", quietZero: true },
  ],
  range: fromZero,
  axis: format.compact,
  value: (perS) => (perS === null ? format.none : `${format.rate(perS)}/s`),
  dot: true,
});
const liveTimes = chart("plot-times", { ...liveBase, ...times });
const historyCounts = chart("plot-history-counts", {
  ...historyBase,
  lines: [
    { label: "all", color: "--accent", fill: "--accent-bar", kind: "bars" },
    { label: "failed", color: "--bad", fill: "--bad", kind: "bars" },
  ],
  range: (_, greatest) => [0, Math.max(4, niceCeiling(greatest))],
  axis: format.compact,
  value: (n) => (n === null ? format.none : format.count(n)),
});
const historyTimes = chart("plot-history-times", { ...historyBase, ...times });
const historySuccess = chart("plot-history-success", {
  ...historyBase,
  lines: [{ label: "success", color: "--accent", fill: "--accent-soft", kind: "line" }],
  range: (least) => [least >= 0.9 ? 0.9 : least >= 0.5 ? 0.5 : 0, 1],
  axis: (share) => `${+(share * 100).toFixed(1)} %`,
  value: format.percent,
});

/** What the charts of the time frame were last drawn from. */
let drawnCharts: State["charts"] | null = null;
let drawnTo = 0;

function drawHistory(): void {
  const to = Math.floor(serverNow(state, now()) / state.bucketS);
  if (drawnCharts === state.charts && drawnTo === to) return;
  drawnCharts = state.charts;
  drawnTo = to;
  const series = historySeries(state, now());
  historyCounts.draw(series.counts, series.from, series.to);
  historyTimes.draw(series.times, series.from, series.to);
  historySuccess.draw(series.success, series.from, series.to);
}

/** The moving charts advance less than two pixels a second: drawing them with each message would be work for nothing. */
const liveEveryS = 0.5;
let liveDrawnAt = -1;
let liveDrawnConnected = false;

function drawLive(connected: boolean): void {
  if (now() - liveDrawnAt < liveEveryS && connected === liveDrawnConnected) return;
  liveDrawnAt = now();
  liveDrawnConnected = connected;
  // Who asked for less motion sees the charts step with each whole bucket instead of sliding.
  const step = calm.matches ? state.liveBucketS : 0;
  const series = liveSeries(state, now(), connected);
  const shift = step ? Math.ceil(series.to / step) * step - series.to : 0;
  liveRate.draw(series.rate, series.from + shift, series.to + shift);
  liveTimes.draw(series.times, series.from + shift, series.to + shift);
}

// ---- Rendering

function render(): void {
  frame = 0;
  const { status } = connection;
  const connected = status.kind === "live";
  renderConnection(state, status, now());
  if (!state.ready) return;
  renderFigures(state, now(), connected);
  renderLists(state);
  renderWorkflows(state);
  renderEmpty(state);
  showTenant();
  drawLive(connected);
  drawHistory();
}

function schedule(): void {
  if (!document.hidden && frame === 0) frame = requestAnimationFrame(render);
}

/** Once a second while visible: time passes on the page even when nothing happens. */
function tick(): void {
  clearInterval(ticker);
  if (document.hidden) return;
  ticker = setInterval(schedule, 1000);
  schedule();
}

// ---- Connection

let said: Status["kind"] = "connecting";

const connection = new Connection(socketUrl, {
  message(text) {
    const message = parse(text);
    if (!message) return;
    state = apply(state, message, now());
    if (message.type === "initial_data") byId("history").setAttribute("aria-busy", "false");
    schedule();
  },
  status(status) {
    // Said aloud: lost and back, once each; not the countdown, not the first connection.
    if (status.kind !== said && !(said === "connecting" && status.kind === "live")) {
      const words = { connecting: "", live: "Live again.", reconnecting: "Connection lost, reconnecting." };
      byId("announcer").textContent = words[status.kind];
    }
    said = status.kind;
    schedule();
  },
  refused: () => void checkSession(),
});

// ---- Session

let session: Session | null = null;

async function checkSession(): Promise<void> {
  try {
    session = await currentSession();
  } catch {
    return; // the server is away: the connection keeps trying, and asks again
  }
  if (session === null) {
    connection.stop();
    location.replace("/login");
    return;
  }
  const mayRead = session.scopes.includes("read") || session.scopes.includes("*");
  byId("notice").hidden = mayRead;
  if (!mayRead) byId("notice").textContent = `This token may not read dashboards (it may: ${session.scopes.join(", ") || "nothing"}).`;
  showTenant();
}

function showTenant(): void {
  const tenant = session?.tenant_id ?? state.tenantId ?? "";
  if (byId("tenant").textContent !== tenant) byId("tenant").textContent = byId("tenant").title = tenant;
}

byId("sign-out").addEventListener("click", () => {
  void signOut().then((done) => {
    if (done) {
      connection.stop();
      location.replace("/login");
    } else {
      byId("announcer").textContent = "Signing out failed: the server cannot be reached.";
      byId("notice").textContent = "Signing out failed: the server cannot be reached. Try again in a moment.";
      byId("notice").hidden = false;
    }
  });
});

// ---- Controls

for (const timeframe of Object.keys(timeframeS) as Timeframe[]) {
  byId<HTMLInputElement>(`timeframe-${timeframe}`).addEventListener("change", () => ask(timeframe, asked().workflowId));
}
byId("retry").addEventListener("click", () => connection.retryNow());

document.addEventListener("click", (event) => {
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  const target = event.target instanceof Element ? event.target : null;
  const workflow = target?.closest<HTMLElement>("a[data-workflow]");
  if (workflow && plain) {
    event.preventDefault();
    ask(asked().timeframe, workflow.dataset.workflow!);
    scrollTo({ top: 0, behavior: calm.matches ? "auto" : "smooth" });
  } else if (target?.closest("#filter-clear") && plain) {
    event.preventDefault();
    ask(asked().timeframe, null);
  }
  const copy = target?.closest<HTMLButtonElement>("button[data-copy]");
  if (copy) void copyCommand(copy);
});

async function copyCommand(button: HTMLButtonElement): Promise<void> {
  const source = byId(button.dataset.copy!);
  try {
    await navigator.clipboard.writeText(source.textContent ?? "");
    button.textContent = "Copied";
  } catch {
    getSelection()?.selectAllChildren(source); // no clipboard without https: select it, the person presses the keys
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

addEventListener("popstate", follow);
document.addEventListener("visibilitychange", tick);
watchTheme(() => charts.forEach((made) => made.restyle()));
follow();
void checkSession();
tick();
