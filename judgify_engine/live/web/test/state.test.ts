import assert from "node:assert/strict";
import test from "node:test";
import { isFigures, parse, type Message } from "../src/protocol";
import { apply, currentRate, initialState, mergePoints, serverNow, type State } from "../src/state";

const t0 = 1_700_000_000; // a multiple of 5 but not of 300

function full(more: Partial<Message> = {}): Message {
  return {
    type: "initial_data",
    dashboard_id: "main",
    tenant_id: "demo",
    workflow_id: null,
    position: "0/1A2B3C4-17",
    server_time: t0,
    rate_per_s: 12.4,
    summary: {
      total_executions: 22695,
      successful_executions: 22690,
      failed_executions: 5,
      success_rate: 22690 / 22695,
      mean_execution_time_ms: 4.2,
      p95_execution_time_ms: 11,
      mean_confidence: 0.96,
      methods: { rule: 22000, llm: 600, hybrid: 95 },
      results: { inspect: 5581, ok: 17114 },
    },
    timeframe: "1h",
    bucket_s: 300,
    charts: {
      count: { type: "execution_count_chart", points: [[t0 - 500, 40, 1], [t0 - 200, 10, 0]] },
      time: { type: "response_time_chart", points: [[t0 - 200, 4, 9]] },
      confidence: { type: "confidence_chart", points: [[0.9, 3], [0.95, 47]] },
    },
    live: [[t0 - 10, 60, 0, 4, 9], [t0 - 5, 62, 1, 4, 9]],
    live_bucket_s: 5,
    live_window_s: 600,
    workflows: [
      { workflow_id: "small", total_executions: 1, successful_executions: 1, mean_execution_time_ms: 1 },
      { workflow_id: "big", total_executions: 22694, successful_executions: 22689, mean_execution_time_ms: 4 },
    ],
    ...more,
  };
}

const update = (more: Partial<Message>): Message => ({ type: "real_time_update", server_time: t0 + 1, ...more });
const started = (more: Partial<Message> = {}): State => apply(initialState, full(more), 100);

test("a full message is taken over, lists sorted by size", () => {
  const state = started();
  assert.ok(state.ready);
  assert.equal(state.position, "0/1A2B3C4-17");
  assert.equal(state.summary.results["inspect"], 5581);
  assert.deepEqual(state.resultOrder, ["ok", "inspect"]);
  assert.deepEqual(state.workflows.map((row) => row.workflow_id), ["big", "small"]);
});

test("an update before the first full message is ignored", () => {
  assert.equal(apply(initialState, update({ rate_per_s: 9 }), 100), initialState);
});

test("an update overlays what it carries and keeps the rest", () => {
  const before = started();
  const after = apply(before, update({ position: "0/2-1", rate_per_s: 20, live: [[t0 - 5, 70, 2, 5, 8], [t0, 3, 0, 4, 4]] }), 101);
  assert.equal(after.position, "0/2-1");
  assert.equal(after.recomputing, false);
  assert.equal(apply(after, update({ position: "0/0-0", recomputing: true }), 102).recomputing, true);
  assert.equal(after.ratePerS, 20);
  assert.equal(after.summary, before.summary);
  assert.equal(after.charts, before.charts, "unchanged charts keep their identity, so nothing is drawn again");
  assert.deepEqual(after.live.map((point) => [point[0] - t0, point[1]]), [[-10, 60], [-5, 70], [0, 3]]);
});

test("applying a message twice does no harm", () => {
  const message = update({ live: [[t0, 3, 0, 4, 4]], summary: { ...full().summary, total_executions: 22696 } });
  const once = apply(started(), message, 101);
  assert.deepEqual(apply(once, message, 101), once);
});

test("neither state nor message is changed in place", () => {
  const before = started();
  const copy = structuredClone(before);
  const message = update({ live: [[t0, 3, 0, 4, 4]], workflows: [{ workflow_id: "new", total_executions: 1, successful_executions: 1, mean_execution_time_ms: null }] });
  const messageCopy = structuredClone(message);
  apply(before, message, 101);
  assert.deepEqual(before, copy);
  assert.deepEqual(message, messageCopy);
});

test("verdicts keep their place until the next full message", () => {
  const more = { ok: 17114, inspect: 20000, reject: 30000, failed: 1 };
  const updated = apply(started(), update({ summary: { results: more } }), 101);
  assert.deepEqual(updated.resultOrder, ["ok", "inspect", "reject", "failed"]);
  const refreshed = apply(updated, full({ type: "dashboard_update", summary: { ...full().summary, results: more } }), 102);
  assert.deepEqual(refreshed.resultOrder, ["reject", "inspect", "ok", "failed"]);
});

test("changed workflow rows are replaced, new ones go to the end, 50 at most", () => {
  const row = (id: string, n: number) => ({ workflow_id: id, total_executions: n, successful_executions: n, mean_execution_time_ms: 1 });
  const state = apply(started(), update({ workflows: [row("small", 99_999), row("new", 5)] }), 101);
  assert.deepEqual(state.workflows.map((r) => [r.workflow_id, r.total_executions]), [["big", 22694], ["small", 99_999], ["new", 5]]);
  const many = apply(state, update({ workflows: Array.from({ length: 80 }, (_, i) => row(`w${i}`, 1)) }), 102);
  assert.equal(many.workflows.length, 50);
});

test("a full message forgets what it does not carry", () => {
  const state = apply(started(), full({ type: "dashboard_update", live: [], workflows: [], summary: { ...full().summary, results: { ok: 1 } } }), 102);
  assert.deepEqual(state.live, []);
  assert.deepEqual(state.workflows, []);
  assert.deepEqual(state.summary.results, { ok: 1 });
});

test("what was recovered overlays: figures that did not change meanwhile stay", () => {
  const before = started();
  const missed = full({
    position: "0/9-1",
    resume: "0/9-1@server",
    recovered: true,
    summary: { total_executions: 22700 },
    charts: { count: { type: "execution_count_chart", points: [[t0 - 200, 15, 0]] } },
    live: [],
    workflows: [{ workflow_id: "small", total_executions: 6, successful_executions: 6, mean_execution_time_ms: 1 }],
  });
  const after = apply(before, missed, 200);
  assert.deepEqual(after.charts.get("count")!.points, [[t0 - 500, 40, 1], [t0 - 200, 15, 0]]);
  assert.equal(after.charts.get("time"), before.charts.get("time"));
  assert.deepEqual(after.live, before.live);
  assert.equal(after.summary.total_executions, 22700);
  assert.equal(after.summary.results["ok"], 17114);
  assert.deepEqual(after.workflows.map((row) => [row.workflow_id, row.total_executions]), [["big", 22694], ["small", 6]]);
  assert.equal(after.resume, "0/9-1@server");
});

test("what could not be recovered replaces everything, and nothing is recovered into nothing", () => {
  const whole = full({ recovered: false, charts: {}, live: [], workflows: [] });
  const after = apply(started(), whole, 200);
  assert.equal(after.charts.size, 0);
  assert.deepEqual(after.live, []);
  assert.equal(apply(initialState, full({ recovered: true }), 1), initialState);
});

test("one names the server's own token when coming back, and the position where it gives none", () => {
  assert.equal(started().resume, "0/1A2B3C4-17");
  const state = apply(started({ resume: "a@1" }), update({ resume: "b@1", position: "0/2-1" }), 101);
  assert.equal(state.resume, "b@1");
});

test("a distribution is replaced whole; a chart of another type is another chart; an id may be anything", () => {
  const changed = parsed(
    `{"type":"real_time_update","server_time":${t0 + 1},"charts":{"confidence":{"type":"confidence_chart","points":[[0.9,4]]},` +
      `"count":{"type":"success_rate_chart","points":[[${t0 - 200},0.5]]},"__proto__":{"type":"methods_chart","points":[]}}}`,
  );
  const state = apply(started(), changed, 101);
  assert.deepEqual(state.charts.get("confidence")!.points, [[0.9, 4]]);
  assert.deepEqual(state.charts.get("count"), { type: "success_rate_chart", points: [[t0 - 200, 0.5]] });
  assert.equal(state.charts.get("__proto__")!.type, "methods_chart");
  assert.equal(apply(started(), full({ type: "dashboard_update", charts: {} }), 102).charts.size, 0);
});

test("points older than the window are dropped, even when nothing new comes", () => {
  const later = apply(started(), update({ server_time: t0 + 3500 }), 3600);
  assert.deepEqual(later.live, []);
  assert.deepEqual(later.charts.get("count")!.points.map((point) => point[0] - t0), [-200]);
});

test("mergePoints puts a point in the place of the one of the same time and sorts", () => {
  assert.deepEqual(mergePoints([[10, 1], [20, 2]], [[30, 3], [20, 9], [5, 5]], 10), [[10, 1], [20, 9], [30, 3]]);
});

test("the server's clock follows the message that travelled fastest, and never runs back", () => {
  let state = started(); // received at 100
  assert.equal(serverNow(state, 101), t0 + 1);
  state = apply(state, update({ server_time: t0 + 1 }), 101.5); // half a second late
  assert.equal(serverNow(state, 102), t0 + 2);
  state = apply(state, full({ type: "dashboard_update", server_time: t0 + 30 }), 120);
  assert.equal(serverNow(state, 119), t0 + 30);
});

test("silence on a connection that is up means a rate of zero; on one that is down it means nothing", () => {
  const state = started();
  assert.equal(currentRate(state, 103, true), 12.4);
  assert.equal(currentRate(state, 107, true), 0);
  assert.equal(currentRate(state, 107, false), 12.4);
});

function parsed(text: string): Message {
  const message = parse(text);
  if (!message || !isFigures(message)) throw new Error(`no figures in ${text}`);
  return message;
}

test("parse refuses what is no message", () => {
  for (const text of ["", "nonsense", "null", "[]", "42", '{"type":7}', '{"type":"initial_data"}', new Uint8Array(1)]) {
    assert.equal(parse(text), null);
  }
  assert.equal(parsed('{"type":"real_time_update","server_time":1,"later":true}').type, "real_time_update");
  const other = parse('{"type":"alerts","firing":2}')!;
  assert.ok(!isFigures(other), "for a panel, not for the figures");
});

test("a verdict named like a property of Object is a verdict", () => {
  const message = parsed(JSON.stringify(full()).replace('"inspect":5581', '"__proto__":5581,"constructor":1'));
  const state = apply(initialState, message, 1);
  assert.deepEqual(state.resultOrder, ["ok", "__proto__", "constructor"]);
  assert.equal(state.summary.results["__proto__"], 5581);
});
