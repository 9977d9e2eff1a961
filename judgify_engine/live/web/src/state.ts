// What the dashboard knows: a pure function of the messages received. No DOM, no clock; time comes in as an argument.
//
// Rules:
// - `initial_data` and `dashboard_update` replace everything; `real_time_update`, and an `initial_data` that recovered what
//   was missed since the last position, overlay what they carry.
// - Figures are absolute, so applying a message twice changes nothing.
// - Lists that a person reads (verdicts, workflows) are sorted by full messages only, so rows do not jump while they
//   are read; what appears in between goes to the end.
// - Nothing is changed in place: a reference that stays the same means that its content stayed the same.
import type { ChartData, Charts, LivePoint, Message, Summary, Timeframe, Workflow } from "./protocol";

export interface State {
  /** A full message has been applied. */
  readonly ready: boolean;
  readonly tenantId: string | null;
  readonly workflowId: string | null;
  readonly position: string;
  /** What to name when coming back, to get only what was missed; null: nothing to come back to. */
  readonly resume: string | null;
  /** Version of the definition that the charts are of. */
  readonly definitionVersion: number | null;
  /** The rollups are being computed anew: the figures are of before. */
  readonly recomputing: boolean;
  /** Unix seconds; null: not known. */
  readonly verifiedThrough: number | null;
  /** Server's clock when the latest message was made, Unix seconds. */
  readonly serverTime: number;
  /** Our clock when it arrived, in seconds since any origin that stays the same. */
  readonly receivedAt: number;
  /** Server's clock minus ours, from the message that travelled fastest. */
  readonly clockOffset: number;
  readonly ratePerS: number;
  readonly summary: Summary;
  readonly resultOrder: readonly string[];
  readonly timeframe: Timeframe;
  readonly bucketS: number;
  /** By the id of the chart in the definition. */
  readonly charts: ReadonlyMap<string, ChartData>;
  readonly liveBucketS: number;
  readonly liveWindowS: number;
  readonly live: readonly LivePoint[];
  readonly workflows: readonly Workflow[];
}

export const timeframeS: Readonly<Record<Timeframe, number>> = { "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800 };
const workflowsShown = 50;

const noSummary: Summary = {
  total_executions: 0,
  successful_executions: 0,
  failed_executions: 0,
  success_rate: null,
  mean_execution_time_ms: null,
  p95_execution_time_ms: null,
  mean_confidence: null,
  methods: {},
  results: {},
};

export const initialState: State = {
  ready: false,
  tenantId: null,
  workflowId: null,
  position: "",
  resume: null,
  definitionVersion: null,
  recomputing: false,
  verifiedThrough: null,
  serverTime: 0,
  receivedAt: 0,
  clockOffset: 0,
  ratePerS: 0,
  summary: noSummary,
  resultOrder: [],
  timeframe: "1h",
  bucketS: 300,
  charts: new Map(),
  liveBucketS: 5,
  liveWindowS: 600,
  live: [],
  workflows: [],
};

/** The state after `message`, which arrived at `receivedAt` (seconds of our own clock). */
export function apply(state: State, message: Message, receivedAt: number): State {
  const recovered = message.recovered === true;
  const full = message.type !== "real_time_update" && !recovered;
  if (!full && !state.ready) return state; // an update of nothing
  const base: State = full ? { ...initialState, ready: true } : state;

  const timeframe = message.timeframe ?? base.timeframe;
  const bucketS = message.bucket_s ?? base.bucketS;
  const liveBucketS = message.live_bucket_s ?? base.liveBucketS;
  const liveWindowS = message.live_window_s ?? base.liveWindowS;
  // One bucket more than the window is kept, so that lines run out of the chart and do not end at its edge.
  const oldest = Math.floor(message.server_time / bucketS) * bucketS - timeframeS[timeframe];
  const oldestLive = message.server_time - liveWindowS - 2 * liveBucketS;

  const offset = message.server_time - receivedAt;
  const summary = mergeSummary(base.summary, message.summary);
  return {
    ready: true,
    tenantId: message.tenant_id ?? base.tenantId,
    workflowId: message.workflow_id === undefined ? base.workflowId : message.workflow_id,
    position: message.position ?? base.position,
    resume: message.resume ?? message.position ?? base.resume,
    definitionVersion: message.definition_version ?? base.definitionVersion,
    recomputing: message.recomputing ?? base.recomputing,
    verifiedThrough: message.verified_through === undefined ? base.verifiedThrough : message.verified_through,
    serverTime: message.server_time,
    receivedAt,
    clockOffset: full || recovered ? offset : Math.max(offset, base.clockOffset),
    ratePerS: message.rate_per_s ?? base.ratePerS,
    summary,
    resultOrder: order(full ? [] : base.resultOrder, summary.results),
    timeframe,
    bucketS,
    charts: mergeCharts(base.charts, message.charts, oldest),
    liveBucketS,
    liveWindowS,
    live: mergePoints(base.live, message.live, oldestLive),
    workflows: mergeWorkflows(base.workflows, message.workflows, full),
  };
}

/** The server's clock now, by ours. */
export function serverNow(state: State, now: number): number {
  return state.ready ? Math.max(now + state.clockOffset, state.serverTime) : 0;
}

/**
 * The rate to show at `now` (our clock). A server has nothing to send while nothing is judged, so silence for longer than
 * the five seconds that the rate covers, on a connection that is up, means zero.
 */
export function currentRate(state: State, now: number, connected: boolean): number {
  return connected && now - state.receivedAt > 6 ? 0 : state.ratePerS;
}

/** `old` with each of `changed` put in the place of the point of the same time; by time, none before `oldest`. */
export function mergePoints<P extends readonly [number, ...unknown[]]>(
  old: readonly P[],
  changed: readonly P[] | undefined,
  oldest: number,
): readonly P[] {
  const nothingDrops = old.length === 0 || old[0]![0] >= oldest;
  if (!changed?.length && nothingDrops) return old;
  const byTime = new Map<number, P>();
  for (const point of old) byTime.set(point[0], point);
  for (const point of changed ?? []) byTime.set(point[0], point);
  return [...byTime.values()].filter((point) => point[0] >= oldest).sort((a, b) => a[0] - b[0]);
}

/** Tables are in `workflows`. Distributions come whole; of others, changed points overlay. A chart of another type than before is a new one. */
function mergeCharts(old: State["charts"], changed: Charts | undefined, oldest: number): State["charts"] {
  const merged = new Map<string, ChartData>();
  let differs = false;
  for (const id of new Set([...old.keys(), ...Object.keys(changed ?? {})])) {
    const before = old.get(id);
    const now = changed?.[id];
    const known = before && (!now || now.type === before.type) ? before : null;
    const type = (now ?? before)!.type;
    if (type === "workflows_chart") continue;
    const points = isDistribution(type) ? (now?.points ?? known!.points) : mergePoints(known?.points ?? [], now?.points, oldest);
    const chart = known && points === known.points ? known : { type, points };
    merged.set(id, chart);
    differs ||= chart !== before;
  }
  return differs ? merged : old;
}

const isDistribution = (type: ChartData["type"]): boolean => type === "confidence_chart";

function mergeSummary(old: Summary, changed: Partial<Summary> | undefined): Summary {
  if (!changed) return old;
  return {
    ...old,
    ...changed,
    methods: { ...old.methods, ...changed.methods },
    results: { ...old.results, ...changed.results },
  };
}

/** `known` first, as it stands, then the verdicts that are new, most frequent first. */
function order(known: readonly string[], results: Readonly<Record<string, number>>): readonly string[] {
  const seen = new Set(known);
  const fresh = Object.keys(results).filter((verdict) => !seen.has(verdict));
  if (!fresh.length) return known;
  fresh.sort((a, b) => results[b]! - results[a]! || (a < b ? -1 : 1));
  return [...known, ...fresh];
}

function mergeWorkflows(old: readonly Workflow[], changed: readonly Workflow[] | undefined, full: boolean): readonly Workflow[] {
  if (!changed?.length) return old;
  const rows = new Map<string, Workflow>();
  for (const row of old) rows.set(row.workflow_id, row);
  for (const row of changed) rows.set(row.workflow_id, row);
  const merged = [...rows.values()];
  if (full) merged.sort((a, b) => b.total_executions - a.total_executions || (a.workflow_id < b.workflow_id ? -1 : 1));
  return merged.slice(0, workflowsShown);
}
