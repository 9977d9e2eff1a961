// What the dashboard shows, in the query of the page's address, so that it can be kept, shared and gone back to. Pure.
import type { Timeframe } from "./protocol";
import { timeframeS } from "./state";

export interface Asked {
  readonly dashboardId: string;
  /** null: the one that the dashboard's definition names. */
  readonly timeframe: Timeframe | null;
  readonly workflowId: string | null;
  /** Unix seconds: the end of the time shown; null: now, live. */
  readonly until: number | null;
}

export const mainId = "main";

/** Whether figures of this workflow alone can be asked for; rows that were written by hand may name others. */
export const isWorkflowId = (text: string): boolean => /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/.test(text);

export function readAddress(search: string): Asked {
  const query = new URLSearchParams(search);
  const timeframe = query.get("timeframe");
  const until = Date.parse(query.get("until") ?? "");
  return {
    dashboardId: query.get("dashboard") || mainId,
    timeframe: timeframe !== null && Object.hasOwn(timeframeS, timeframe) ? (timeframe as Timeframe) : null,
    workflowId: isWorkflowId(query.get("workflow_id") ?? "") ? query.get("workflow_id") : null,
    until: Number.isNaN(until) ? null : until / 1000,
  };
}

/** The address of the dashboard's panel that asks for this. */
export function addressOf({ dashboardId, timeframe, workflowId, until }: Asked): string {
  const query = new URLSearchParams();
  if (dashboardId !== mainId) query.set("dashboard", dashboardId);
  if (timeframe !== null) query.set("timeframe", timeframe);
  if (workflowId !== null) query.set("workflow_id", workflowId);
  if (until !== null) query.set("until", isoTime(until));
  const text = query.toString();
  return text ? `/?${text}` : "/";
}

/** Unix seconds in RFC 3339, UTC. */
export const isoTime = (unixS: number): string => new Date(unixS * 1000).toISOString().replace(/\.000Z$/, "Z");

/**
 * The socket's address. `resume`, `version`: the last position seen there and the definition it was of; null: nothing was
 * seen, or it was another address.
 */
export function socketAddress(asked: Asked, timeframe: Timeframe, resume: string | null, version: number | null): string {
  const query = new URLSearchParams({ timeframe });
  if (asked.workflowId !== null) query.set("workflow_id", asked.workflowId);
  if (resume !== null) query.set("position", resume);
  if (resume !== null && version !== null) query.set("definition_version", String(version));
  return `/ws/dashboards/${encodeURIComponent(asked.dashboardId)}?${query}`;
}
