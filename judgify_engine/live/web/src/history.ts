// Figures of a time that is past: from GET /api/v1/metrics, one call for each chart, a few at once.
import { isoTime } from "./address";
import type { ChartDefinition } from "./definition";
import { t } from "./i18n";
import type { Context } from "./panels";
import type { Frame } from "./points";
import type { ChartData, Point, Timeframe, Workflow } from "./protocol";
import { wordsOf } from "./api";

export interface Wanted {
  readonly timeframe: Timeframe;
  /** Unix seconds. */
  readonly until: number;
  /** null: all; several cannot be asked for at once. */
  readonly workflowIds: readonly string[];
}

export interface Past {
  readonly frame: Frame;
  readonly data: ChartData | null;
  readonly workflows: readonly Workflow[];
  /** Why there are none. */
  readonly why: string;
}

interface Bucket {
  readonly from: string;
  readonly count: number;
  readonly mean: number | null;
  readonly min: number | null;
  readonly max: number | null;
  readonly p95: number | null;
}

interface Answer {
  readonly from: string;
  readonly to: string;
  readonly bucket_s: number;
  readonly chart?: { readonly points: readonly Point[] } | null;
  readonly metrics?: readonly { readonly buckets: readonly Bucket[] }[];
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
  const waiting = [...charts];
  const work = async (): Promise<void> => {
    for (let chart = waiting.shift(); chart && !signal.aborted; chart = waiting.shift()) {
      const past = await load(chart, wanted, fetchJson, signal);
      if (!signal.aborted) done(chart.id, past);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}

async function load(chart: ChartDefinition, wanted: Wanted, fetchJson: Context["fetchJson"], signal: AbortSignal): Promise<Past> {
  const nothing: Past = { frame: { from: 0, to: 0, bucketS: 1 }, data: null, workflows: [], why: t("chart.oneWorkflow") };
  if (wanted.workflowIds.length > 1) return nothing;
  try {
    return read(chart, await fetchJson<Answer>(`/api/v1/metrics?${queryOf(chart, wanted)}`, { signal }));
  } catch (error) {
    return { ...nothing, why: t("chart.failed", { reason: wordsOf(error) }) };
  }
}

function queryOf(chart: ChartDefinition, { timeframe, until, workflowIds }: Wanted): URLSearchParams {
  const query = new URLSearchParams({ timeframe, until: isoTime(until) });
  if (workflowIds[0] !== undefined) query.set("workflow_id", workflowIds[0]);
  if (chart.type === "tracked_inputs_chart") query.set("metric", `input.${chart.field ?? ""}`);
  else query.set("chart", chart.type);
  return query;
}

function read(chart: ChartDefinition, answer: Answer): Past {
  const frame = { from: Date.parse(answer.from) / 1000, to: Date.parse(answer.to) / 1000, bucketS: answer.bucket_s };
  const points = answer.chart?.points ?? (answer.metrics?.[0]?.buckets ?? []).map(pointOf);
  if (chart.type === "workflows_chart") return { frame, data: null, workflows: points.map(rowOf), why: "" };
  return { frame, data: { type: chart.type, points }, workflows: [], why: "" };
}

const pointOf = ({ from, count, mean, min, max, p95 }: Bucket): Point => [Date.parse(from) / 1000, count, mean, min, max, p95];

/** [workflow_id, total, successful, mean_ms] */
const rowOf = (point: readonly unknown[]): Workflow => ({
  workflow_id: String(point[0]),
  total_executions: Number(point[1]),
  successful_executions: Number(point[2]),
  mean_execution_time_ms: point[3] as number | null,
});
