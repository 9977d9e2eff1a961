// Figures of a time that is past: from GET /api/v1/metrics, one call for each chart, a few at once.
import { isoTime } from "./address";
import type { ChartDefinition } from "./definition";
import { t } from "./i18n";
import type { Context } from "./panels";
import type { Frame } from "./points";
import type { ChartData, Point, Timeframe } from "./protocol";
import { wordsOf } from "./api";

export interface Wanted {
  readonly timeframe: Timeframe;
  /** Unix seconds. */
  readonly until: number;
  /** Empty: all. */
  readonly workflowIds: readonly string[];
}

export interface Past {
  readonly frame: Frame;
  readonly data: ChartData | null;
  /** Why there are none. */
  readonly why: string;
}

interface Answer {
  readonly from: string;
  readonly to: string;
  readonly bucket_s: number;
  readonly chart: { readonly points: readonly Point[] };
}

const atOnce = 4;

/** Loads the charts one after the other, a few at once; `done` is called with each. A failure is an answer too. */
export async function loadPast(
  charts: readonly ChartDefinition[],
  wanted: Wanted,
  fetchJson: Context["fetchJson"],
  signal: AbortSignal,
  done: (id: string, past: Past) => void,
): Promise<void> {
  const waiting = charts.filter((chart) => chart.type !== "workflows_chart"); // which counts since the beginning
  const work = async (): Promise<void> => {
    for (let chart = waiting.shift(); chart && !signal.aborted; chart = waiting.shift()) {
      const past = await load(chart, wanted, fetchJson, signal);
      if (!signal.aborted) done(chart.id, past);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}

async function load(chart: ChartDefinition, wanted: Wanted, fetchJson: Context["fetchJson"], signal: AbortSignal): Promise<Past> {
  const nothing: Past = { frame: { from: 0, to: 0, bucketS: 1 }, data: null, why: "" };
  try {
    return read(chart, await fetchJson<Answer>(`/api/v1/metrics?${queryOf(chart, wanted)}`, { signal }));
  } catch (error) {
    return { ...nothing, why: t("chart.failed", { reason: wordsOf(error) }) };
  }
}

function queryOf(chart: ChartDefinition, { timeframe, until, workflowIds }: Wanted): URLSearchParams {
  const query = new URLSearchParams({ timeframe, until: isoTime(until) });
  if (workflowIds.length) query.set("workflow_id", workflowIds.join(","));
  query.set("chart", chart.type);
  if (chart.type === "tracked_inputs_chart") query.set("field", chart.field ?? "");
  return query;
}

function read(chart: ChartDefinition, answer: Answer): Past {
  const frame = { from: Date.parse(answer.from) / 1000, to: Date.parse(answer.to) / 1000, bucketS: answer.bucket_s };
  return { frame, data: { type: chart.type, points: answer.chart.points }, why: "" };
}
