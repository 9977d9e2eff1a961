// The messages of ../../PROTOCOL.md as types, and the one place where text from the network becomes one of them.
// Fields that a `real_time_update` leaves out are optional here; state.ts decides what a missing one means.

export type Timeframe = "1h" | "6h" | "24h" | "7d";

/** [bucket start in Unix seconds, total, failed] */
export type CountPoint = readonly [time: number, total: number, failed: number];
/** [bucket start in Unix seconds, mean ms, p95 ms] */
export type TimePoint = readonly [time: number, meanMs: number | null, p95Ms: number | null];
/** [bucket start in Unix seconds, share of successes 0..1] */
export type RatePoint = readonly [time: number, rate: number | null];
/** [bucket start in Unix seconds, total, failed, mean ms, p95 ms] */
export type LivePoint = readonly [time: number, total: number, failed: number, meanMs: number | null, p95Ms: number | null];

export interface Charts {
  readonly execution_count_chart: readonly CountPoint[];
  readonly response_time_chart: readonly TimePoint[];
  readonly success_rate_chart: readonly RatePoint[];
}

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
  readonly recomputing?: boolean;
  readonly verified_through?: number | null;
  readonly server_time: number;
  readonly rate_per_s?: number;
  readonly summary?: Partial<Summary>;
  readonly timeframe?: Timeframe;
  readonly bucket_s?: number;
  readonly charts?: Partial<Charts>;
  readonly live?: readonly LivePoint[];
  readonly live_bucket_s?: number;
  readonly live_window_s?: number;
  readonly workflows?: readonly Workflow[];
}

const types = new Set(["initial_data", "real_time_update", "dashboard_update"]);

/** The message in `text`, or null for anything this page does not know (a later server may say more). */
export function parse(text: unknown): Message | null {
  if (typeof text !== "string") return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null) return null;
  const { type, server_time } = value as Record<string, unknown>;
  if (typeof type !== "string" || !types.has(type) || typeof server_time !== "number") return null;
  return value as Message;
}
