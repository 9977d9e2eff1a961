// How each type of chart looks and speaks: lines and their colours, axes, and which judgments are behind a point.
import { isoTime } from "./address";
import type { ChartSpec, Line } from "./charts";
import type { ChartDefinition } from "./definition";
import * as format from "./format";
import { t, type Key } from "./i18n";
import { lineNames, rest, type Frame, type Plotted } from "./points";
import type { ChartType, Timeframe } from "./protocol";
import { niceCeiling } from "./series";

export const typeName = (type: ChartType): string => t(`chart.${type}`);
export const titleOf = (chart: ChartDefinition): string =>
  chart.title || (chart.type === "tracked_inputs_chart" && chart.field ? chart.field : typeName(chart.type));

const palette = ["--accent-bar", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
const ticks = [300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800, 259200, 604800];

export const verdictName = (verdict: string): string =>
  verdict === rest ? t("chart.rest") : verdict === "" ? t("chart.noVerdict") : verdict === "failed" ? t("line.failed") : verdict;
export const methodName = (method: string): string =>
  method === "rule" || method === "llm" || method === "hybrid" ? t(`method.${method}`) : method;

const line = (label: Key & `line.${string}`, color: string, more: Partial<Line> = {}): Line => ({
  label: t(label as "line.mean"),
  color,
  kind: "line",
  ...more,
});
const bar = (label: string, color: string): Line => ({ label, color, fill: color, kind: "bars" });

const fromZero = (_: number, greatest: number): [number, number] => [0, niceCeiling(greatest)];
const counts = (_: number, greatest: number): [number, number] => [0, Math.max(4, niceCeiling(greatest))];
/** Around the values, with some room: a temperature seldom comes near zero. */
function around(least: number, greatest: number): [number, number] {
  const room = (greatest - least) * 0.1 || Math.abs(greatest) * 0.1 || 1;
  return [least >= 0 ? Math.max(0, least - room) : least - room, greatest + room];
}

type Look = Pick<ChartSpec, "lines" | "range" | "axis" | "value" | "band">;

/** `names`: of the parts, where the chart is a stack of them; see points.ts. */
export function lookOf(type: ChartType, names: readonly string[]): Look {
  switch (type) {
    case "execution_count_chart": {
      const lines = [bar(t("line.all"), "--accent-bar"), bar(t("line.failed"), "--bad")];
      return { lines, range: counts, axis: format.compact, value: format.countOrNone };
    }
    case "response_time_chart": {
      const lines = [line("line.mean", "--accent"), line("line.p95", "--second")];
      return { lines, range: fromZero, axis: format.axisMilliseconds, value: format.milliseconds };
    }
    case "success_rate_chart": {
      const lines = [line("line.success", "--accent", { fill: "--accent-soft" })];
      const range = (least: number): [number, number] => [least >= 0.9 ? 0.9 : least >= 0.5 ? 0.5 : 0, 1];
      return { lines, range, axis: format.axisPercent, value: format.percent };
    }
    case "results_chart": {
      const lines = names.map((name, i) => bar(verdictName(name), name === "failed" ? "--bad" : palette[i % palette.length]!));
      return { lines, range: counts, axis: format.compact, value: format.countOrNone };
    }
    case "methods_chart": {
      const lines = lineNames[type].map((name, i) => bar(methodName(name), palette[i]!));
      return { lines, range: counts, axis: format.compact, value: format.countOrNone };
    }
    case "confidence_chart": {
      const lines = [bar(t("line.judgments"), "--accent-bar")];
      return { lines, range: counts, axis: format.compact, value: format.countOrNone };
    }
    case "tracked_inputs_chart": {
      const lines = [
        line("line.mean", "--accent"),
        line("line.p95", "--second"),
        line("line.min", "--strong-line"),
        line("line.max", "--strong-line"),
        line("line.count", "--muted", { spokenOnly: true, value: format.countOrNone }),
      ];
      return { lines, range: around, axis: format.compact, value: format.measured, band: [4, 3, "--accent-soft"] };
    }
    case "workflows_chart":
      return { lines: [], range: fromZero, axis: format.compact, value: format.measured };
  }
}

/** Everything about a chart's look but what is chosen on it. `bucketS`, `timeframe`, `edges`: of what is shown. */
export function specOf(
  chart: ChartDefinition,
  names: readonly string[],
  shown: () => { bucketS: number; timeframe: Timeframe; edges: readonly number[] },
): ChartSpec {
  const base = { ...lookOf(chart.type, names), thresholds: chart.lines };
  if (chart.type === "confidence_chart") {
    const when = (middle: number): string => {
      const { edges } = shown();
      const end = edges.findIndex((edge) => edge > middle);
      return t("chart.binOf", { from: format.bin(edges[end - 1] ?? 0), to: format.bin(edges[end] ?? 1) });
    };
    return { ...base, time: false, sync: null, when, tick: format.compact, steps: [0.1, 0.2, 0.25, 0.5] };
  }
  const when = (middle: number): string => {
    const { bucketS, timeframe } = shown();
    const start = middle - bucketS / 2;
    const long = timeframe === "7d" || start < Date.now() / 1000 - 86_400;
    return `${long ? format.dateTime(start) : format.time(start)}–${format.time(start + bucketS)}`;
  };
  return { ...base, time: true, sync: "history", when, tick, steps: ticks };
}

const midnight = (at: number): boolean => new Date(at * 1000).getHours() === 0 && new Date(at * 1000).getMinutes() === 0;
const tick = (at: number, step: number): string => (step >= 86400 || midnight(at) ? format.date(at) : format.time(at));

/**
 * The filters of GET /api/v1/judgments that list what point `index` of a chart counts; `line`: one line of it, null: all.
 * A bin of a distribution is of the whole frame; the first and the last one have no end on the outside.
 */
export function behind(chart: ChartDefinition, plotted: Plotted, frame: Frame, index: number, line: number | null): Readonly<Record<string, string>> {
  if (chart.type === "confidence_chart") {
    const [from, to] = (plotted.edges ?? []).slice(index, index + 2);
    const last = index + 2 >= (plotted.edges?.length ?? 0);
    return {
      created_from: isoTime(frame.from),
      created_to: isoTime(frame.to),
      ...(index > 0 && { confidence_min: String(from) }),
      ...(!last && { confidence_max: String(to) }),
    };
  }
  const start = plotted.columns[0][index]! - frame.bucketS / 2;
  const [from, to] = [isoTime(start), isoTime(start + frame.bucketS)];
  if (chart.type === "tracked_inputs_chart") return { tracked: chart.field ?? "", occurred_from: from, occurred_to: to };
  return { created_from: from, created_to: to, ...filterOf(chart.type, plotted.names, line) };
}

function filterOf(type: ChartType, names: readonly string[], line: number | null): Readonly<Record<string, string>> {
  const name = line === null ? undefined : names[line];
  if (name === undefined || name === rest) return {};
  if (type === "execution_count_chart") return name === "failed" ? { status: "failed" } : {};
  if (type === "results_chart") return { result: name };
  return type === "methods_chart" ? { method_used: name } : {};
}
