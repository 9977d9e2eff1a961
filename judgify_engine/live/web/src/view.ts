// Puts state into the page: figures, lists, connection. Touches only what changed; text only, never markup.
import type { Status } from "./connection";
import { byId, setAttribute, setText } from "./dom";
import * as format from "./format";
import { t } from "./i18n";
import type { Summary } from "./protocol";
import { methodName, verdictName } from "./specs";
import { currentRate, type State } from "./state";

function setFigure(testId: string, raw: number | string | null, text: string): void {
  const element = document.querySelector(`[data-testid="${testId}"]`)!;
  setAttribute(element, "data-value", raw === null ? "" : String(raw));
  setText(element, text);
}

export function renderFigures(state: State, now: number, connected: boolean): void {
  const rate = currentRate(state, now, connected);
  const { ready, summary } = state;
  const known = <T>(value: T): T | null => (ready ? value : null);
  setFigure("rate", known(rate), ready ? format.rate(rate) : format.none);
  setFigure("total-executions", known(summary.total_executions), ready ? format.count(summary.total_executions) : format.none);
  setFigure("success-rate", summary.success_rate, format.percent(summary.success_rate));
  setFigure("mean-time", summary.mean_execution_time_ms, format.milliseconds(summary.mean_execution_time_ms));
  setFigure("p95-time", summary.p95_execution_time_ms, format.milliseconds(summary.p95_execution_time_ms));
  setFigure("failed-executions", known(summary.failed_executions), ready ? format.count(summary.failed_executions) : format.none);
  setFigure("mean-confidence", summary.mean_confidence, format.confidence(summary.mean_confidence));
}

export function renderConnection(state: State, status: Status, now: number): void {
  const pill = document.querySelector('[data-testid="connection"]')!;
  setAttribute(pill, "data-state", status.kind);
  const wait = status.kind === "reconnecting" && status.retryAt !== null ? Math.max(1, Math.ceil((status.retryAt - Date.now()) / 1000)) : 0;
  const words =
    status.kind !== "reconnecting" ? t(`connection.${status.kind}`) : wait ? t("connection.reconnectingIn", { n: wait }) : t("connection.reconnecting");
  setText(pill, words);
  setAttribute(pill, "title", status.kind === "reconnecting" && status.reason ? t("connection.because", { reason: status.reason }) : "");
  byId("retry").hidden = !wait;
  setFigure("position", state.position, state.position || format.none);
  const verified = state.verifiedThrough;
  setFigure("verified-through", verified, verified === null ? format.none : format.moment(verified, now + state.clockOffset));
  byId("recomputing").hidden = !state.recomputing;
  const age = now - state.receivedAt;
  setFigure("updated", state.ready ? Math.round(age * 10) / 10 : null, state.ready ? format.age(age) : format.none);
}

interface Row {
  readonly root: HTMLElement;
  readonly count: HTMLElement;
  readonly share: HTMLElement;
  readonly bar: HTMLElement;
}

/** A list of counts with bars: one row for each name, in the order given. */
class BarList {
  private readonly rows = new Map<string, Row>();
  private shown = "";

  constructor(
    private readonly list: HTMLElement,
    private readonly testIdPrefix: string,
    private readonly label: (name: string) => string,
  ) {}

  render(names: readonly string[], counts: Readonly<Record<string, number>>, ready: boolean): void {
    const all = names.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
    for (const name of names) {
      const row = this.rows.get(name) ?? this.add(name);
      const n = counts[name] ?? 0;
      setAttribute(row.count, "data-value", ready ? String(n) : "");
      setText(row.count, ready ? format.count(n) : format.none);
      setText(row.share, ready ? format.share(n, all) : "");
      // Rounded, so that a bar does not set out on a transition of a hair's breadth with each message.
      const scale = `scaleX(${all > 0 ? Math.round((n / all) * 500) / 500 : 0})`;
      if (row.bar.style.transform !== scale) row.bar.style.transform = scale;
    }
    const shown = names.join("\n");
    if (shown === this.shown) return;
    this.shown = shown;
    for (const [name, row] of this.rows) {
      if (names.includes(name)) continue;
      row.root.remove();
      this.rows.delete(name);
    }
    this.list.append(...names.map((name) => this.rows.get(name)!.root));
  }

  private add(name: string): Row {
    const make = (tag: string, className: string): HTMLElement => Object.assign(document.createElement(tag), { className });
    const root = make("li", "bar-row");
    const label = make("span", "bar-name");
    const row: Row = { root, count: make("span", "bar-count"), share: make("span", "bar-share"), bar: make("span", "bar-fill") };
    const track = make("span", "bar-track");
    label.textContent = this.label(name);
    label.title = label.textContent;
    row.count.dataset.testid = this.testIdPrefix + name;
    root.dataset.name = name;
    track.append(row.bar);
    root.append(label, row.count, row.share, track);
    this.rows.set(name, row);
    return row;
  }
}

const methods = new BarList(byId("methods"), "method-", methodName);
const results = new BarList(byId("results"), "result-", verdictName);
const resultsShown = 50;
let lastSummary: Summary | null = null;
let lastOrder: readonly string[] | null = null;

export function renderLists(state: State): void {
  if (lastSummary === state.summary && lastOrder === state.resultOrder) return;
  lastSummary = state.summary;
  lastOrder = state.resultOrder;
  const { summary, ready } = state;
  methods.render([...new Set(["rule", "llm", "hybrid", ...Object.keys(summary.methods)])], summary.methods, ready);
  results.render(state.resultOrder.slice(0, resultsShown), summary.results, ready);
  const more = state.resultOrder.length - resultsShown;
  setText(byId("results-note"), !ready ? "" : more > 0 ? t("results.more", { n: more }) : state.resultOrder.length ? "" : t("results.none"));
}

/** Shown instead of charts while nothing has been judged yet. */
export function renderEmpty(state: State): void {
  const empty = state.ready && state.summary.total_executions === 0;
  const page = document.body;
  if (page.classList.contains("empty") !== empty) page.classList.toggle("empty", empty);
}

/** Commands to paste: define the workflow, post a judgment to it. */
export function commands(workflowId: string): { define: string; judge: string } {
  const quote = (value: unknown): string => `'${JSON.stringify(value, null, 2).replace(/'/g, `'\\''`).replace(/\n/g, "\n  ")}'`;
  const curl = (method: string, path: string, body: unknown): string =>
    [
      `curl -X ${method} ${location.origin}${path} \\`,
      `  -H 'Authorization: Bearer TOKEN' \\`,
      `  -H 'Content-Type: application/json' \\`,
      `  -d ${quote(body)}`,
    ].join("\n");
  return {
    define: curl("PUT", `/api/v1/workflows/${encodeURIComponent(workflowId)}`, {
      rules: [{ when: "input.temperature > 90.0", result: { verdict: "inspect" }, confidence: 0.9 }],
      default: { result: { verdict: "ok" }, confidence: 0.99 },
    }),
    judge: curl("POST", "/api/v1/judgments/execute", {
      workflow_id: workflowId,
      input_data: { temperature: 92.3, pressure: 101.2, vibration: 44.1, machine_id: "MACHINE_3", user_id: 13 },
      context: { shift: "day", operator: "operator_3" },
    }),
  };
}
