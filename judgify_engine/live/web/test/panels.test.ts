import assert from "node:assert/strict";
import test from "node:test";
import { known, listFilters, localTime, utcTime } from "../src/filters";
import { chartedAt, resultOf } from "../src/judgments";
import { plot } from "../src/points";
import type { ChartType, Point } from "../src/protocol";
import { leaves, valueOf } from "../src/record";
import { behind } from "../src/specs";
import { mostLines, parseTail, TailRows, type TailJudgment } from "../src/tailrows";

const judgment = (id: number): TailJudgment => ({
  judgment_id: String(id), workflow_id: "w", workflow_version: 1, status: "completed", method_used: "rule", result: "ok",
  confidence_score: 1, execution_time_ms: 1, created_at: "2026-01-01T00:00:00.000000Z",
});
const message = (ids: number[], skipped = 0, gap = false) =>
  parseTail(JSON.stringify({ type: "tail", position: "0/1-0", skipped, gap, judgments: ids.map(judgment) }))!;

test("a tail shows what comes, says what was skipped, and where something may be missing", () => {
  const rows = new TailRows();
  assert.deepEqual(rows.take(message([1, 2])).map((line) => line.kind), ["judgment", "judgment"]);
  assert.deepEqual(rows.take(message([3], 7, true)).map((line) => line.kind), ["gap", "skipped", "judgment"]);
  assert.equal(rows.seen, 10);
});

test("while it is paused everything is counted, the newest are kept, and none is unaccounted for", () => {
  const rows = new TailRows();
  rows.pause();
  for (let start = 0; start < 1000; start += 50) {
    assert.deepEqual(rows.take(message(Array.from({ length: 50 }, (_, n) => start + n), 2)), []);
  }
  assert.equal(rows.meanwhile, 1040);
  const lines = rows.resume();
  assert.ok(lines.length <= mostLines);
  const counted = lines.reduce((sum, line) => sum + (line.kind === "skipped" ? line.count : line.kind === "judgment" ? 1 : 0), 0);
  assert.equal(counted, 1040);
  const last = lines.at(-1)!;
  assert.equal(last.kind === "judgment" && last.judgment.judgment_id, "999");
  assert.equal(rows.take(message([1000])).length, 1);
});

test("what is no message of a tail is passed over", () => {
  for (const text of ["", "null", "[]", '{"type":"alerts"}', '{"type":"tail"}', 3]) assert.equal(parseTail(text), null);
});

test("leaves are named as rules name them, and bounded", () => {
  const { rows, cut } = leaves({ a: 1, b: { c: [true, "x"], d: {} }, e: null });
  assert.deepEqual(rows, [["a", "1"], ["b.c[0]", "true"], ["b.c[1]", "x"], ["b.d", "{}"], ["e", "null"]]);
  assert.equal(cut, false);
  assert.equal(leaves(Array.from({ length: 500 }, (_, n) => n), 10).rows.length, 10);
  assert.equal(leaves(Array.from({ length: 500 }, (_, n) => n), 10).cut, true);
});

test("a value that a rule names is found, and one that is not there is not made up", () => {
  const record = { input_data: { a: 0, "b": { c: 1 } }, context: { shift: "day" } };
  assert.equal(valueOf(record, "input.a"), 0);
  assert.equal(valueOf(record, "context.shift"), "day");
  assert.equal(valueOf(record, "input.toString"), undefined);
  assert.equal(valueOf(record, "input"), record.input_data);
});

test("results are named as the figures name them", () => {
  assert.equal(resultOf("completed", { verdict: "ok" }), "ok");
  assert.equal(resultOf("completed", { verdict: 3 }), "");
  assert.equal(resultOf("failed", { verdict: "ok" }), "failed");
});

test("filters keep what the API knows, and an empty result is one", () => {
  const query = known(new URLSearchParams("result=&status=&workflow_id=w&tenant_id=x"), listFilters);
  assert.equal(query.toString(), "workflow_id=w&result=");
  assert.equal(utcTime(localTime("2026-01-02T03:04:05Z")), "2026-01-02T03:04:05.000Z");
  assert.equal(localTime("nonsense"), "");
});

const frame = { from: 1_767_571_200, to: 1_767_578_400, bucketS: 3600 };
const hour = { from: "2026-01-05T01:00:00Z", to: "2026-01-05T02:00:00Z" };
const behindOf = (type: ChartType, points: Point[], index: number, line: number | null = null) =>
  behind({ id: "c", type, title: "", width: "half", field: "heat", lines: [] }, plot(type, points, frame)!, frame, index, line);

test("behind a bin is what it counts: of the whole frame, from its edge up to the next one's", () => {
  const bins: Point[] = [[0, 3], [0.049842, 0], [0.5, 7], [0.941207, 9]];
  const whole = { created_from: "2026-01-05T00:00:00Z", created_to: hour.to };
  assert.deepEqual(behindOf("confidence_chart", bins, 0), { ...whole, confidence_max: "0.049842" });
  assert.deepEqual(behindOf("confidence_chart", bins, 1), { ...whole, confidence_min: "0.049842", confidence_max: "0.5" });
  assert.deepEqual(behindOf("confidence_chart", bins, 3), { ...whole, confidence_min: "0.941207" }, "the last one holds 1");
});

test("behind a point of tracked inputs is what occurred in its time, with the field", () => {
  const points: Point[] = [[frame.from + 3600, 2, 1, 1, 1, 1]];
  const wanted = { tracked: "heat", occurred_from: hour.from, occurred_to: hour.to };
  assert.deepEqual(behindOf("tracked_inputs_chart", points, 1), wanted);
  assert.deepEqual(behindOf("tracked_inputs_chart", points, 1, 2), wanted, "whichever figure of it");
});

test("behind a point of another chart is what was created in its time, and one line's part of it", () => {
  const created = { created_from: hour.from, created_to: hour.to };
  assert.deepEqual(behindOf("execution_count_chart", [], 1), created);
  assert.deepEqual(behindOf("execution_count_chart", [], 1, 1), { ...created, status: "failed" });
  assert.deepEqual(behindOf("methods_chart", [], 1, 2), { ...created, method_used: "hybrid" });
  assert.deepEqual(behindOf("results_chart", [[frame.from + 3600, { "": 3 }]], 1, 0), { ...created, result: "" });
});

test("every filter that a chart leads to is one of the list's", () => {
  for (const type of ["confidence_chart", "tracked_inputs_chart", "methods_chart", "execution_count_chart"] as const) {
    const query = new URLSearchParams(behindOf(type, [], 1, 1));
    assert.equal(known(query, listFilters).size, query.size, type);
  }
});

test("a judgment is charted by when it occurred, where that is believed", () => {
  const one = judgment(1);
  assert.equal(chartedAt(one), one.created_at);
  for (const [occurred, charted] of [["1999-12-31T23:59:59Z", false], ["2000-01-01T00:00:00Z", true], ["2200-01-01T00:00:00Z", false]] as const) {
    assert.equal(chartedAt({ ...one, occurred_at: occurred }), charted ? occurred : one.created_at);
  }
});
