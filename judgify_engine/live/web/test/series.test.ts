import assert from "node:assert/strict";
import test from "node:test";
import { backoffMs } from "../src/connection";
import * as format from "../src/format";
import { historySeries, liveSeries, niceCeiling } from "../src/series";
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
    charts: { execution_count_chart: [[t0 - 200, 7, 1]], response_time_chart: [[t0 - 200, 4, 9]], success_rate_chart: [[t0 - 200, 0.9]] },
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

test("the time frame has all its buckets, counts 0 and times null where nothing was", () => {
  const { counts, times, success, from, to } = historySeries(state, 1);
  assert.equal(to - from, 3600);
  assert.equal(counts[0].length, 12);
  assert.equal(at(counts, t0 - 50), 7);
  assert.equal(at(counts, t0 - 350), 0);
  assert.equal(at(times, t0 - 350), null);
  assert.equal(at(success, t0 - 50), 0.9);
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
