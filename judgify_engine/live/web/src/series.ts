// From state to the columns that the charts draw. Pure; `null` is a gap, 0 is a zero.
import { currentRate, serverNow, type State } from "./state";

export type Column = (number | null)[];

export interface LiveSeries {
  /** The window shown, Unix seconds of the server. */
  readonly from: number;
  readonly to: number;
  /** [time, judgments per second, failed per second]; ends at `to` with the rate of now. */
  readonly rate: [number[], Column, Column];
  /** [time, mean ms, p95 ms] */
  readonly times: [number[], Column, Column];
}

/**
 * The moving window at `now` (our clock). Whole buckets stand at their middle. The bucket that is still filling is left
 * out, since it would always look like a fall; in its place the line ends at the right edge with the rate of the last
 * seconds. While the connection is down nothing is known, so the line ends where knowledge ended.
 */
export function liveSeries(state: State, now: number, connected: boolean): LiveSeries {
  const width = state.liveBucketS;
  const to = serverNow(state, now);
  const from = to - state.liveWindowS;
  const knownUntil = connected ? to : state.serverTime;
  const byTime = new Map(state.live.map((point) => [point[0], point]));

  const rate: LiveSeries["rate"] = [[], [], []];
  const times: LiveSeries["times"] = [[], [], []];
  const current = Math.floor(to / width) * width;
  for (let start = current - state.liveWindowS - width; start <= current; start += width) {
    const point = byTime.get(start);
    const middle = start + width / 2;
    if (start < current) {
      const unknown = start + width > knownUntil || (!point && start < from);
      rate[0].push(middle);
      rate[1].push(unknown ? null : (point?.[1] ?? 0) / width);
      rate[2].push(unknown ? null : (point?.[2] ?? 0) / width);
    }
    if (middle <= to) {
      times[0].push(middle);
      times[1].push(point?.[3] ?? null);
      times[2].push(point?.[4] ?? null);
    }
  }
  if (connected && state.ready) {
    rate[0].push(to);
    rate[1].push(currentRate(state, now, connected));
    rate[2].push(null);
  }
  return { from, to, rate, times };
}

/** The smallest of 1, 1.5, 2, 3, 4, 5, 6, 8 × 10^k that is at least `value`: an axis that seldom changes its mind. */
export function niceCeiling(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((s) => s * power >= value * (1 - 1e-9)) ?? 10;
  return Number((step * power).toPrecision(6));
}
