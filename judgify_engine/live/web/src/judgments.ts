// Judgments in rows, as the list and the live tail show them.
import { el } from "./dom";
import * as format from "./format";
import { locale, t, type PlainKey } from "./i18n";

/** What both `GET /api/v1/judgments` and the tail say of a judgment. */
export interface Judgment {
  readonly judgment_id: string;
  readonly workflow_id: string;
  readonly workflow_version: number;
  readonly status: string;
  readonly method_used: string;
  readonly confidence_score: number;
  readonly execution_time_ms: number;
  readonly created_at: string;
  readonly occurred_at?: string | null;
}

const stamps = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
const clocks = new Intl.DateTimeFormat(locale, { hour: "numeric", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });

/** RFC 3339 in the viewer's own time; what is no time stays as it is. */
export const stamp = (text: string): string => told(stamps, text);
export const clock = (text: string): string => told(clocks, text);

function told(formatter: Intl.DateTimeFormat, text: string): string {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : formatter.format(at);
}

const methods: Readonly<Record<string, PlainKey>> = { rule: "method.rule", llm: "method.llm", hybrid: "method.hybrid" };
export const methodWords = (method: string): string => (methods[method] ? t(methods[method]) : method);

/** As core/results names it. */
export function resultOf(status: string, result: unknown): string {
  if (status !== "completed") return "failed";
  const verdict = typeof result === "object" && result !== null ? (result as Record<string, unknown>).verdict : undefined;
  return typeof verdict === "string" ? verdict : "";
}
/** When its tracked values are charted, as core/tracking has it. */
export function chartedAt({ occurred_at: occurred, created_at: created }: Judgment): string {
  return occurred && occurred >= "2000" && occurred < "2200" ? occurred : created;
}

export const resultWords = (result: string): string => result || t("records.noResult");

export function judgmentTable(caption: string): { root: HTMLTableElement; body: HTMLTableSectionElement; time: HTMLElement } {
  const body = el("tbody");
  const head = (words: string, className = ""): HTMLElement => el("th", { scope: "col", class: className || null }, words);
  const time = head(t("records.time"), "when");
  const root = el(
    "table",
    { class: "judgments" },
    el("caption", { class: "visually-hidden" }, caption),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        time,
        head(t("records.workflow")),
        head(t("records.result")),
        head(t("records.method"), "hide-narrow"),
        head(t("records.confidence"), "number hide-narrow"),
        head(t("records.took"), "number"),
      ),
    ),
    body,
  );
  return { root, body, time };
}

/** `at`: the time that is shown. */
export function judgmentRow(judgment: Judgment, result: string, when: (text: string) => string, at = judgment.created_at): HTMLTableRowElement {
  const link = el("a", { href: `#/judgments/${encodeURIComponent(judgment.judgment_id)}`, title: at }, when(at));
  const row = el(
    "tr",
    { "data-judgment": judgment.judgment_id, "data-result": result },
    el("th", { scope: "row", class: "when" }, link),
    el("td", { title: judgment.workflow_id }, judgment.workflow_id),
    el("td", { class: judgment.status === "failed" ? "bad" : null, title: resultWords(result) }, resultWords(result)),
    el("td", { class: "hide-narrow" }, methodWords(judgment.method_used)),
    el("td", { class: "number hide-narrow", "data-value": judgment.confidence_score }, format.confidence(judgment.confidence_score)),
    el("td", { class: "number", "data-value": judgment.execution_time_ms }, format.milliseconds(judgment.execution_time_ms)),
  );
  return row;
}

/** Up and down move between the rows' links, Home and End to the first and the last. */
export function moveWithKeys(body: HTMLElement): void {
  body.addEventListener("keydown", (event) => {
    const links = [...body.querySelectorAll<HTMLAnchorElement>("th a")];
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    links[Math.max(0, Math.min(links.length - 1, to))]?.focus();
  });
}
