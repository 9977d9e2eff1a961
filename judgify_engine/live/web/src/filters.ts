// The filters that the list of judgments and the live tail have in common, as a form; their names are those of the API.
import { el } from "./dom";
import { t, type PlainKey } from "./i18n";

const labels: Readonly<Record<string, PlainKey>> = {
  workflow_id: "records.workflow",
  result: "records.result",
  status: "records.status",
  method_used: "records.method",
  created_from: "records.from",
  created_to: "records.to",
  confidence_min: "records.confidenceMin",
  confidence_max: "records.confidenceMax",
  tracked: "records.tracked",
  occurred_from: "records.occurredFrom",
  occurred_to: "records.occurredTo",
};
const choices: Readonly<Record<string, readonly (readonly [value: string, words: PlainKey])[]>> = {
  status: [
    ["completed", "records.completed"],
    ["failed", "records.failed"],
  ],
  method_used: [
    ["rule", "method.rule"],
    ["llm", "method.llm"],
    ["hybrid", "method.hybrid"],
  ],
};
const times = new Set(["created_from", "created_to", "occurred_from", "occurred_to"]);
const shares = new Set(["confidence_min", "confidence_max"]);
/** They come from points of charts, mostly; shown when one of them is set, or wanted. */
const rarer = ["confidence_min", "confidence_max", "tracked", "occurred_from", "occurred_to"] as const;
/** A result that is empty is one, so it must be told from "any". */
const noResult = "records.noResult";

export const listFilters = ["workflow_id", "result", "status", "method_used", "created_from", "created_to", ...rarer] as const;
export const tailFilters = ["workflow_id", "result", "status", "method_used"] as const;

/** Only what the API knows, of what is in an address. */
export function known(query: URLSearchParams, names: readonly string[]): URLSearchParams {
  const found = new URLSearchParams();
  for (const name of names) {
    const value = query.get(name);
    if (value !== null && (value !== "" || name === "result")) found.set(name, value);
  }
  return found;
}

export class Filters {
  readonly root: HTMLFormElement;
  private readonly fields = new Map<string, HTMLInputElement | HTMLSelectElement>();
  private readonly more = el("details", { class: "rarer" }, el("summary", {}, t("records.rarer")));

  /** `apply` gets the query when the person wants it. */
  constructor(names: readonly string[], apply: (query: URLSearchParams) => void, prefix: string) {
    this.root = el("form", { class: "filters", "aria-label": t("records.filters"), novalidate: true });
    const rarely = new Set<string>(rarer);
    const others = el("div", { class: "filters" });
    for (const name of names) {
      const id = `${prefix}-${name}`;
      const field = choices[name] ? select(choices[name]) : inputOf(name);
      field.id = id;
      field.name = name;
      if (name === "result") field.setAttribute("placeholder", t("records.any"));
      this.fields.set(name, field);
      (rarely.has(name) ? others : this.root).append(el("p", {}, el("label", { for: id }, t(labels[name]!)), field));
    }
    this.more.append(others);
    if (others.childElementCount) this.root.append(this.more);
    const clear = el("button", { type: "button", class: "quiet" }, t("records.clear"));
    clear.addEventListener("click", () => apply(new URLSearchParams()));
    this.root.append(el("p", { class: "buttons" }, el("button", { type: "submit" }, t("records.apply")), clear));
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.isWritten()) apply(this.read());
    });
  }

  show(query: URLSearchParams): void {
    for (const [name, field] of this.fields) {
      const value = query.get(name);
      if (name === "result" && value === "") field.value = t(noResult);
      else field.value = value === null ? "" : times.has(name) ? localTime(value) : value;
    }
    if (rarer.some((name) => query.has(name))) this.more.open = true;
  }

  /** What is half a time or no number is shown as such: it has no value, so that the list would be without the filter. */
  private isWritten(): boolean {
    const half = [...this.fields].find(([, field]) => field.validity.badInput);
    if (half === undefined) return true;
    if (this.more.contains(half[1])) this.more.open = true;
    half[1].reportValidity();
    return false;
  }

  private read(): URLSearchParams {
    const query = new URLSearchParams();
    for (const [name, field] of this.fields) {
      const value = field.value.trim();
      if (name === "result" && value === t(noResult)) query.set(name, "");
      else if (value) query.set(name, times.has(name) ? utcTime(value) : value);
    }
    return query;
  }
}

function inputOf(name: string): HTMLInputElement {
  const kind = times.has(name) ? { type: "datetime-local", step: 1 } : shares.has(name) ? { type: "number", min: 0, max: 1, step: "any" } : { type: "text" };
  return el("input", { ...kind, spellcheck: "false", autocomplete: "off" });
}

function select(options: readonly (readonly [string, PlainKey])[]): HTMLSelectElement {
  const field = el("select", {}, el("option", { value: "" }, t("records.any")));
  for (const [value, words] of options) field.append(el("option", { value }, t(words)));
  return field;
}

/** RFC 3339 as the viewer's own time, as `datetime-local` wants it; "" for what is none. */
export function localTime(text: string): string {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return "";
  const pad = (n: number): string => String(n).padStart(2, "0");
  return `${String(at.getFullYear()).padStart(4, "0")}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

/** The other way. */
export function utcTime(local: string): string {
  const at = new Date(local);
  return Number.isNaN(at.getTime()) ? local : at.toISOString();
}
