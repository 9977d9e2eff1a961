// From the points of a definition's chart to the columns that are drawn. Pure; `null` is a gap, 0 is a zero.
//
// Stacks are drawn as sums from the top, the tallest first, so that each part covers the feet of those before it; what is
// said of a point are the parts themselves (`values`).
import type { ChartType, Point } from "./protocol";
import type { Column } from "./series";

/** Whole buckets: [from, to) in Unix seconds of the server. */
export interface Frame {
  readonly from: number;
  readonly to: number;
  readonly bucketS: number;
}

export interface Plotted {
  /** x, then a column for each line. Times are the middles of buckets. */
  readonly columns: [number[], ...Column[]];
  /** What each line is at each x, as it is said. */
  readonly values: readonly Column[];
  /** What a line shows: the verdict or method, where lines are parts of a stack; else by the chart's type. */
  readonly names: readonly string[];
  /** Left and right edge of the x axis. */
  readonly from: number;
  readonly to: number;
  /** Where the bins of a distribution begin, and where the last one ends. */
  readonly edges?: readonly number[];
}

/** Lines of the types that always have the same ones. */
export const lineNames = {
  execution_count_chart: ["all", "failed"],
  response_time_chart: ["mean", "p95"],
  success_rate_chart: ["success"],
  methods_chart: ["rule", "llm", "hybrid"],
  confidence_chart: ["count"],
  tracked_inputs_chart: ["mean", "p95", "min", "max", "count"],
} as const satisfies Partial<Record<ChartType, readonly string[]>>;

/** Verdicts that have a line of their own; the others are one line, named as the server names those that it left out. */
export const verdictsShown = 6;
export const rest = "*";

/** Of a distribution that has not come yet. */
const bins = 20;

/** The frame that ends with the bucket in which `now` (Unix seconds of the server) lies. */
export function frameAt(now: number, bucketS: number, lengthS: number): Frame {
  const to = Math.floor(now / bucketS) * bucketS + bucketS;
  return { from: to - lengthS, to, bucketS };
}

/**
 * The columns of a chart, for all of the frame's buckets, or null for what is no chart (a table). `before`: the names of the
 * last time; verdicts keep their order while they are the same ones, so that nothing changes places while it is read.
 */
export function plot(type: ChartType, points: readonly Point[], frame: Frame, before: readonly string[] = []): Plotted | null {
  switch (type) {
    case "workflows_chart":
      return null;
    case "confidence_chart":
      return distribution(points);
    case "results_chart":
      return results(points, frame, before);
    case "methods_chart":
      return stack(lineNames[type], (point, i) => Number(point?.[i + 1] ?? 0), points, frame);
    case "execution_count_chart":
      return lines(lineNames[type], 0, points, frame);
    case "tracked_inputs_chart":
      return tracked(points, frame);
    case "response_time_chart":
    case "success_rate_chart":
      return lines(lineNames[type], null, points, frame);
  }
}

const starts = ({ from, to, bucketS }: Frame): number[] =>
  Array.from({ length: Math.max(0, Math.round((to - from) / bucketS)) }, (_, i) => from + i * bucketS);

const byTime = (points: readonly Point[]): Map<number, Point> => new Map(points.map((point) => [point[0], point]));

const figure = (value: Point[number] | undefined): number | null => (typeof value === "number" ? value : null);

function lines(names: readonly string[], missing: 0 | null, points: readonly Point[], frame: Frame): Plotted {
  const known = byTime(points);
  const at = starts(frame);
  const values = names.map((_, i) => at.map((start) => figure(known.get(start)?.[i + 1]) ?? missing));
  return { columns: [middles(at, frame), ...values], values, names, from: frame.from, to: frame.to };
}

/** [t, count, mean, min, max, p95]: the count is said, not drawn. */
function tracked(points: readonly Point[], frame: Frame): Plotted {
  const turned = points.map(([at, count, mean, min, max, p95]): Point => [at, mean!, p95 ?? null, min!, max!, count!]);
  const plotted = lines(lineNames.tracked_inputs_chart, null, turned, frame);
  return { ...plotted, columns: plotted.columns.slice(0, 5) as Plotted["columns"] };
}

function results(points: readonly Point[], frame: Frame, before: readonly string[]): Plotted {
  const inside = points.filter((point) => point[0] >= frame.from && point[0] < frame.to);
  const totals = new Map<string, number>();
  const counts = (point: Point | undefined): Readonly<Record<string, number>> =>
    typeof point?.[1] === "object" && point[1] !== null ? point[1] : {};
  for (const point of inside) {
    for (const [verdict, n] of Object.entries(counts(point))) totals.set(verdict, (totals.get(verdict) ?? 0) + n);
  }
  const order = [...totals].filter(([verdict]) => verdict !== rest).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([verdict]) => verdict);
  const shown = order.slice(0, verdictsShown);
  const fresh = order.length > shown.length || totals.has(rest) ? [...shown, rest] : shown;
  const names = before.length === fresh.length && fresh.every((name) => before.includes(name)) ? before : fresh;
  const own = new Set(shown);
  const count = (point: Point | undefined, i: number): number => {
    const all = Object.entries(counts(point));
    if (names[i] !== rest) return all.find(([verdict]) => verdict === names[i])?.[1] ?? 0;
    return all.reduce((sum, [verdict, n]) => sum + (own.has(verdict) ? 0 : n), 0);
  };
  return stack(names, count, inside, frame);
}

function stack(
  names: readonly string[],
  count: (point: Point | undefined, line: number) => number,
  points: readonly Point[],
  frame: Frame,
): Plotted {
  const known = byTime(points);
  const at = starts(frame);
  const values = names.map((_, i) => at.map((start) => count(known.get(start), i)));
  const sums = values.map((_, i) => at.map((_start, k) => values.slice(i).reduce((sum, column) => sum + column[k]!, 0)));
  return { columns: [middles(at, frame), ...sums], values, names, from: frame.from, to: frame.to };
}

/** [[bin start, count], …] up to 1: the bins are those that the server counted, each up to the next one's start. */
function distribution(points: readonly Point[]): Plotted {
  const told = [...points].sort((a, b) => a[0] - b[0]);
  const starts = told.length ? told.map(([at]) => at) : Array.from({ length: bins }, (_, i) => i / bins);
  const edges = [...starts, 1];
  const values = [starts.map((_, i) => figure(told[i]?.[1]) ?? 0)];
  const middle = starts.map((start, i) => (start + edges[i + 1]!) / 2);
  return { columns: [middle, ...values], values, names: lineNames.confidence_chart, from: 0, to: 1, edges };
}

const middles = (at: readonly number[], { bucketS }: Frame): number[] => at.map((start) => start + bucketS / 2);
