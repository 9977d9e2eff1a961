// A dashboard's definition as the API gives and takes it, and the edits of it. Pure: an edit returns a new definition.
import type { ChartType, Timeframe } from "./protocol";

export type Severity = "info" | "warning" | "critical";
export const severities: readonly Severity[] = ["info", "warning", "critical"];

export interface ThresholdLine {
  readonly value: number;
  readonly label: string;
  readonly severity: Severity;
}

export interface ChartDefinition {
  readonly id: string;
  readonly type: ChartType;
  readonly title?: string | null;
  readonly width: "half" | "full";
  /** Of `tracked_inputs_chart` only. */
  readonly field?: string | null;
  readonly lines: readonly ThresholdLine[];
}

export interface Definition {
  readonly name: string;
  readonly timeframe: Timeframe;
  /** Empty: all workflows. */
  readonly workflow_ids: readonly string[];
  readonly charts: readonly ChartDefinition[];
}

/** A definition that the server keeps. */
export interface Stored {
  readonly id: string;
  readonly version: number;
  readonly definition: Definition;
}

export interface Listed {
  readonly dashboard_id: string;
  readonly name: string;
  readonly version: number;
  readonly default: boolean;
}

export const chartTypes: readonly ChartType[] = [
  "execution_count_chart",
  "response_time_chart",
  "success_rate_chart",
  "results_chart",
  "methods_chart",
  "confidence_chart",
  "tracked_inputs_chart",
  "workflows_chart",
];
export const maxCharts = 24;
export const maxLines = 8;

/** Charts whose y axis a threshold line can stand on. */
export const takesLines = (type: ChartType): boolean => type !== "workflows_chart";

/** The definition in an answer of the API, whatever else that holds. */
export function readStored(id: string, answer: Record<string, unknown>): Stored {
  const inner = (answer.definition ?? answer) as Partial<Definition>;
  return {
    id,
    version: Number(answer.version ?? 0),
    definition: {
      name: inner.name ?? id,
      timeframe: inner.timeframe ?? "1h",
      workflow_ids: inner.workflow_ids ?? [],
      charts: (inner.charts ?? []).map((chart) => ({ ...chart, width: chart.width ?? "half", lines: chart.lines ?? [] })),
    },
  };
}

/** What PUT takes: fields that say nothing are left out. */
export function written(definition: Definition): Record<string, unknown> {
  const { name, timeframe, workflow_ids, charts } = definition;
  return {
    name,
    timeframe,
    workflow_ids,
    charts: charts.map(({ id, type, title, width, field, lines }) => ({
      id,
      type,
      ...(title ? { title } : {}),
      width,
      ...(type === "tracked_inputs_chart" ? { field } : {}),
      lines,
    })),
  };
}

/** An id of the kind `count`, `count-2`, … that is not taken. */
export function freshId(wanted: string, taken: readonly string[]): string {
  const base = wanted.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 50);
  for (let n = 1; ; n++) {
    const id = (base || "dashboard") + (n > 1 ? `-${n}` : "");
    if (!taken.includes(id)) return id;
  }
}

export function add(definition: Definition, chart: Omit<ChartDefinition, "id">): Definition {
  const taken = definition.charts.map((one) => one.id);
  const id = freshId(chart.type.replace(/_chart$/, ""), taken);
  return { ...definition, charts: [...definition.charts, { ...chart, id }] };
}

export function change(definition: Definition, id: string, chart: Omit<ChartDefinition, "id">): Definition {
  return { ...definition, charts: definition.charts.map((one) => (one.id === id ? { ...chart, id } : one)) };
}

export function remove(definition: Definition, id: string): Definition {
  return { ...definition, charts: definition.charts.filter((one) => one.id !== id) };
}

/** The chart `by` places later (earlier where negative); the same definition at an end. */
export function move(definition: Definition, id: string, by: number): Definition {
  const charts = [...definition.charts];
  const from = charts.findIndex((one) => one.id === id);
  const to = from + by;
  if (from < 0 || to < 0 || to >= charts.length) return definition;
  charts.splice(to, 0, ...charts.splice(from, 1));
  return { ...definition, charts };
}

export const same = (a: Definition, b: Definition): boolean => JSON.stringify(written(a)) === JSON.stringify(written(b));

/** What differs between two definitions, by chart id: for a person who must choose one of them. */
export function differences(mine: Definition, theirs: Definition): { added: string[]; removed: string[]; changed: string[] } {
  const of = (definition: Definition): Map<string, string> =>
    new Map((written(definition).charts as ChartDefinition[]).map((chart) => [chart.id, JSON.stringify(chart)]));
  const [ours, other] = [of(mine), of(theirs)];
  return {
    added: [...other.keys()].filter((id) => !ours.has(id)),
    removed: [...ours.keys()].filter((id) => !other.has(id)),
    changed: [...ours].filter(([id, text]) => other.has(id) && other.get(id) !== text).map(([id]) => id),
  };
}
