// The messages of ../../PROTOCOL.md as types, and the one place where text from the network becomes one of them.
// Fields that a `real_time_update` leaves out are optional here; state.ts decides what a missing one means.

export type Timeframe = "1h" | "6h" | "24h" | "7d";

export type ChartType =
  | "execution_count_chart"
  | "response_time_chart"
  | "success_rate_chart"
  | "results_chart"
  | "methods_chart"
  | "confidence_chart"
  | "tracked_inputs_chart"
  | "workflows_chart";

/**
 * What stands at one place of a chart: a time (Unix seconds, the start of its bucket) or, of a distribution, the start of
 * a bin; then the figures that the chart's type names, in the order of PROTOCOL.md. Those of `results_chart` are counts by
 * verdict.
 */
export type Point = readonly [at: number, ...figures: (number | null | Readonly<Record<string, number>>)[]];

/** [bucket start in Unix seconds, total, failed, mean ms, p95 ms] */
export type LivePoint = readonly [time: number, total: number, failed: number, meanMs: number | null, p95Ms: number | null];

export interface ChartData {
  readonly type: ChartType;
  readonly points: readonly Point[];
}

/** By the id of the chart in the dashboard's definition. */
export type Charts = Readonly<Record<string, ChartData>>;

export interface Summary {
  readonly total_executions: number;
  readonly successful_executions: number;
  readonly failed_executions: number;
  readonly success_rate: number | null;
  readonly mean_execution_time_ms: number | null;
  readonly p95_execution_time_ms: number | null;
  readonly mean_confidence: number | null;
  readonly methods: Readonly<Record<string, number>>;
  readonly results: Readonly<Record<string, number>>;
}

export interface Workflow {
  readonly workflow_id: string;
  readonly total_executions: number;
  readonly successful_executions: number;
  readonly mean_execution_time_ms: number | null;
}

export interface Message {
  readonly type: "initial_data" | "real_time_update" | "dashboard_update";
  readonly dashboard_id?: string;
  readonly tenant_id?: string;
  readonly workflow_id?: string | null;
  readonly position?: string;
  /** What to name as `position` when coming back; opaque. */
  readonly resume?: string | null;
  /** true: only what changed after the position that was named; false: it was too old, this is everything. */
  readonly recovered?: boolean | null;
  readonly definition_version?: number;
  readonly recomputing?: boolean;
  readonly verified_through?: number | null;
  readonly server_time: number;
  readonly rate_per_s?: number;
  readonly summary?: Partial<Summary>;
  readonly timeframe?: Timeframe;
  readonly bucket_s?: number;
  readonly charts?: Charts;
  readonly live?: readonly LivePoint[];
  readonly live_bucket_s?: number;
  readonly live_window_s?: number;
  readonly workflows?: readonly Workflow[];
}

/** A message for one of the panels, which knows what is in it. */
export interface OtherMessage {
  readonly type: string;
  readonly [field: string]: unknown;
}

const types = new Set(["initial_data", "real_time_update", "dashboard_update"]);

export const isFigures = (message: Message | OtherMessage): message is Message => types.has(message.type);

/** The message in `text`; null for what is none. */
export function parse(text: unknown): Message | OtherMessage | null {
  if (typeof text !== "string") return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null) return null;
  const { type, server_time } = value as Record<string, unknown>;
  if (typeof type !== "string" || (types.has(type) && typeof server_time !== "number")) return null;
  return value as Message | OtherMessage;
}
