import assert from "node:assert/strict";
import test from "node:test";
import { known, listFilters, localTime, utcTime } from "../src/filters";
import { resultOf } from "../src/judgments";
import { leaves, valueOf } from "../src/record";
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
