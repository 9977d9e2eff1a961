import assert from "node:assert/strict";
import test from "node:test";
import { backoffMs } from "../src/connection";
import type { ChartDefinition } from "../src/definition";
import * as format from "../src/format";
import { frameAt, plot, rest } from "../src/points";
import type { Point } from "../src/protocol";
import { liveSeries, niceCeiling } from "../src/series";
import { specOf } from "../src/specs";
import { apply, initialState, type State } from "../src/state";

const t0 = 1_700_000_000;
const state: State = apply(
  initialState,
  {
    type: "initial_data",
    server_time: t0,
    rate_per_s: 8,
    timeframe: "1h",
    bucket_s: 300,
    live_bucket_s: 5,
    live_window_s: 600,
    live: [[t0 - 100, 50, 5, 4, 9], [t0 - 10, 60, 0, 4, 9], [t0, 2, 0, 3, 3]],
  },
  0,
);
const at = (columns: [number[], ...(number | null)[][]], time: number, column = 1): number | null | undefined =>
  columns[column]![columns[0].indexOf(time)];

test("missing live buckets are zero, times of nothing are gaps", () => {
  const { rate, times } = liveSeries(state, 1, true);
  assert.equal(at(rate, t0 - 97.5), 10);
  assert.equal(at(rate, t0 - 97.5, 2), 1);
  assert.equal(at(rate, t0 - 92.5), 0);
  assert.equal(at(times, t0 - 92.5), null);
  assert.equal(at(times, t0 - 7.5, 2), 9);
});

test("the line ends now, with the rate of now, and not with the bucket that is filling", () => {
  const { rate, from, to } = liveSeries(state, 3, true);
  assert.equal(to, t0 + 3);
  assert.equal(from, t0 - 597);
  assert.equal(rate[0].at(-1), to);
  assert.equal(rate[1].at(-1), 8);
  assert.equal(rate[0].at(-2), t0 - 2.5);
});

test("idle: the window moves on and fills with zeros", () => {
  const { rate, to } = liveSeries(state, 60, true);
  assert.equal(to, t0 + 60);
  assert.equal(rate[1].at(-1), 0);
  assert.equal(at(rate, t0 + 52.5), 0);
  assert.equal(at(rate, t0 + 2.5), 0.4);
});

test("disconnected: after the last message nothing is known", () => {
  const { rate, to } = liveSeries(state, 60, false);
  assert.equal(to, t0 + 60);
  assert.equal(at(rate, t0 + 52.5), null);
  assert.equal(at(rate, t0 + 2.5), null, "a bucket seen in part only would look like a fall");
  assert.equal(at(rate, t0 - 92.5), 0);
});

test("times rise strictly, whatever the moment", () => {
  for (let now = 0; now < 12; now += 0.37) {
    for (const [xs] of [liveSeries(state, now, true).rate, liveSeries(state, now, true).times]) {
      assert.ok(xs.every((x, i) => i === 0 || x > xs[i - 1]!));
    }
  }
});

const frame = frameAt(t0 + 1, 300, 3600);
const bucket = frame.to - 300; // the one that is filling

test("the time frame has all its buckets, counts 0 and times null where nothing was", () => {
  assert.equal(frame.to - frame.from, 3600);
  const counts = plot("execution_count_chart", [[bucket, 7, 1]], frame)!;
  assert.equal(counts.columns[0].length, 12);
  assert.equal(at(counts.columns, bucket + 150), 7);
  assert.equal(at(counts.columns, bucket + 150, 2), 1);
  assert.equal(at(counts.columns, bucket - 150), 0);
  const times = plot("response_time_chart", [[bucket, 4, 9]], frame)!;
  assert.equal(at(times.columns, bucket + 150, 2), 9);
  assert.equal(at(times.columns, bucket - 150), null);
  assert.equal(at(plot("success_rate_chart", [[bucket, 0.9]], frame)!.columns, bucket + 150), 0.9);
  assert.equal(plot("workflows_chart", [], frame), null);
});

test("stacks are drawn as sums from the top and said as they are", () => {
  const { columns, values, names } = plot("methods_chart", [[bucket, 5, 3, 2]], frame)!;
  assert.deepEqual([1, 2, 3].map((line) => at(columns, bucket + 150, line)), [10, 5, 2]);
  assert.deepEqual(values.map((column) => column.at(-1)), [5, 3, 2]);
  assert.deepEqual(names, ["rule", "llm", "hybrid"]);
  assert.deepEqual(values.map((column) => column[0]), [0, 0, 0]);
});

test("results: the most frequent verdicts have a line, the others one together, and nothing is lost", () => {
  const counts = Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`v${i}`, 10 - i]));
  const points: Point[] = [[bucket, counts], [bucket - 300, { v8: 1, __proto__x: 2 }]];
  const { columns, values, names } = plot("results_chart", points, frame)!;
  assert.deepEqual(names, ["v0", "v1", "v2", "v3", "v4", "v5", rest]);
  assert.deepEqual(values.map((column) => column.at(-1)), [10, 9, 8, 7, 6, 5, 4 + 3 + 2]);
  assert.equal(at(columns, bucket + 150), 54);
  assert.deepEqual(plot("results_chart", [[bucket, { "*": 3, ok: 1 }]], frame)!.names, ["ok", rest], "what the server left out");
  assert.equal(at(columns, bucket - 150), 3);
});

test("verdicts keep their order while they are the same ones", () => {
  const first = plot("results_chart", [[bucket, { ok: 5, inspect: 4 }]], frame)!;
  assert.deepEqual(first.names, ["ok", "inspect"]);
  assert.deepEqual(plot("results_chart", [[bucket, { ok: 5, inspect: 9 }]], frame, first.names)!.names, ["ok", "inspect"]);
  assert.deepEqual(plot("results_chart", [[bucket, { ok: 5, inspect: 9, no: 6 }]], frame, first.names)!.names, ["inspect", "no", "ok"]);
});

test("tracked inputs: mean, p95, min and max are drawn, the count is said", () => {
  const { columns, values, names } = plot("tracked_inputs_chart", [[bucket, 3, 70.5, 60, 90, 88]], frame)!;
  assert.equal(columns.length, 5);
  assert.deepEqual(names.map((name, i) => [name, values[i]!.at(-1)]), [["mean", 70.5], ["p95", 88], ["min", 60], ["max", 90], ["count", 3]]);
  assert.equal(at(columns, bucket - 150), null, "no value is a gap, not a zero");
});

test("the confidence distribution has the bins that the server counted, also where their edges are crooked", () => {
  const { columns, from, to, edges } = plot("confidence_chart", [[0, 0], [0.884077, 2], [0.938188, 7]], frame)!;
  assert.deepEqual([from, to, edges], [0, 1, [0, 0.884077, 0.938188, 1]]);
  assert.deepEqual(columns[1], [0, 2, 7]);
  assert.ok(columns[0].every((x, i) => edges![i]! < x && x < edges![i + 1]!), "each in its bin");
  assert.equal(plot("confidence_chart", [], frame)!.columns[0].length, 20);
});

test("a bin is named by its own edges", () => {
  const chart = { id: "c", type: "confidence_chart", title: null, width: "half", field: null, lines: [] } as unknown as ChartDefinition;
  const { when } = specOf(chart, ["count"], () => ({ bucketS: 300, timeframe: "1h", edges: [0, 0.884077, 0.938188, 1] }));
  assert.ok(/0\.938.*1\.000/.test(when(0.97)));
  assert.ok(/0\.000.*0\.884/.test(when(0.5)));
});

test("nice ceilings", () => {
  assert.deepEqual([0, 0.3, 1, 7, 12, 31, 999, 1001].map(niceCeiling), [1, 0.3, 1, 8, 15, 40, 1000, 1500]);
});

test("waits between attempts stay within half a second and ten", () => {
  assert.equal(backoffMs(0, 0), 500);
  assert.equal(backoffMs(0, 1), 1000);
  assert.equal(backoffMs(2, 0), 2000);
  assert.equal(backoffMs(50, 1), 10_000);
  assert.equal(backoffMs(Infinity, 0), 5000);
});

test("figures", () => {
  assert.equal(format.count(17114), "17,114");
  assert.equal(format.percent(22694 / 22695), "99.99 %");
  assert.equal(format.percent(1), "100 %");
  assert.equal(format.percent(null), "–");
  assert.equal(format.milliseconds(4.231), "4.23 ms");
  assert.equal(format.milliseconds(1234), "1.23 s");
  assert.equal(format.rate(12.34), "12.3");
  assert.equal(format.rate(12345.6), "12,346");
});
