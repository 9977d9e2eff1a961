// The two moving charts of the last ten minutes.
import { makeChart, type Chart } from "./charts";
import { byId } from "./dom";
import * as format from "./format";
import { t } from "./i18n";
import { liveSeries, niceCeiling } from "./series";
import { lookOf } from "./specs";
import type { State } from "./state";

const calm = matchMedia("(prefers-reduced-motion: reduce)");
/** They advance less than two pixels a second: drawing them with each message would be work for nothing. */
const everyS = 0.5;

export class LiveCharts {
  private readonly rate: Chart;
  private readonly times: Chart;
  private drawnAt = -1;
  private drawnConnected = false;

  constructor(announce: (words: string) => void) {
    const base = { when: format.timeSeconds, tick: format.time, steps: [60, 120, 180, 300, 600], sync: "live", time: true };
    for (const id of ["plot-rate", "plot-times"]) byId(id).setAttribute("aria-roledescription", t("chart.role"));
    this.rate = makeChart(
      byId("plot-rate"),
      {
        ...base,
        lines: [
          { label: t("line.all"), color: "--accent", fill: "--accent-soft", kind: "curve" },
          { label: t("line.failed"), color: "--bad", fill: "--bad-soft", kind: "line", quietZero: true },
        ],
        range: (_, greatest) => [0, niceCeiling(greatest)],
        axis: format.compact,
        value: format.perSecond,
        dot: true,
      },
      announce,
    );
    this.times = makeChart(byId("plot-times"), { ...base, ...lookOf("response_time_chart", []) }, announce);
  }

  draw(state: State, now: number, connected: boolean): void {
    if (now - this.drawnAt < everyS && connected === this.drawnConnected) return;
    this.drawnAt = now;
    this.drawnConnected = connected;
    // Who asked for less motion sees the charts step with each whole bucket instead of sliding.
    const step = calm.matches ? state.liveBucketS : 0;
    const series = liveSeries(state, now, connected);
    const shift = step ? Math.ceil(series.to / step) * step - series.to : 0;
    this.rate.draw(series.rate, series.from + shift, series.to + shift);
    this.times.draw(series.times, series.from + shift, series.to + shift);
  }

  restyle(): void {
    this.rate.restyle();
    this.times.restyle();
  }
}
