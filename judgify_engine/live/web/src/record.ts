// One judgment's whole record: what came in, which rules were tried and what each gave, what came out, what was done. Every
// word from data is set as text.
import { el } from "./dom";
import * as format from "./format";
import { t, type PlainKey } from "./i18n";
import { methodWords, resultOf, resultWords, stamp, type Judgment } from "./judgments";

interface Rule {
  readonly index: number;
  readonly name?: string;
  readonly when: string;
  readonly tried: boolean;
  readonly matched: boolean;
  readonly uses: readonly string[];
  readonly result: unknown;
  readonly error?: string;
}

interface Action {
  readonly action: string;
  readonly state: string;
  readonly destination: string;
  readonly attempts: number;
  readonly max_attempts: number;
  readonly error?: string;
}

/** `GET /api/v1/judgments/{id}?explain=true`. */
export interface JudgmentRecord extends Judgment {
  readonly input_data: unknown;
  readonly context: unknown;
  readonly final_result: unknown;
  readonly error?: string;
  readonly rule_index?: number;
  readonly explained_from?: string;
  readonly rules?: readonly Rule[];
  readonly agrees?: boolean;
  readonly actions?: readonly Action[];
}

const mostFields = 300;

/** [path, value as text] of each leaf of a JSON value, in its order, at most `most`; names as CEL would say them. */
export function leaves(value: unknown, most: number = mostFields): { rows: [path: string, text: string][]; cut: boolean } {
  const rows: [string, string][] = [];
  let cut = false;
  const walk = (node: unknown, path: string, depth: number): void => {
    if (rows.length >= most) {
      cut = true;
      return;
    }
    const inner = typeof node === "object" && node !== null && depth < 20 ? Object.entries(node) : [];
    if (!inner.length) {
      if (path) rows.push([path, typeof node === "string" ? node : JSON.stringify(node)]);
      return;
    }
    for (const [name, child] of inner) walk(child, Array.isArray(node) ? `${path}[${name}]` : path ? `${path}.${name}` : name, depth + 1);
  };
  walk(value, "", 0);
  return { rows, cut };
}

/** What `input.a` is in a record; undefined: it is not there. */
export function valueOf(record: Pick<JudgmentRecord, "input_data" | "context">, name: string): unknown {
  const [whole, field] = name.split(/\.(.*)/s, 2);
  const from = whole === "context" ? record.context : record.input_data;
  if (field === undefined) return from;
  return typeof from === "object" && from !== null && Object.hasOwn(from, field) ? (from as Record<string, unknown>)[field] : undefined;
}

export function recordView(record: JudgmentRecord): HTMLElement[] {
  const { rules, actions } = record;
  return [
    facts(record),
    section(t("record.input"), fields(record.input_data)),
    section(t("record.rules"), ...(rules === undefined ? [] : ruleList(record, rules))),
    section(t("record.finalResult"), fields(record.final_result)),
    section(t("record.context"), fields(record.context)),
    section(t("record.actions"), actions?.length ? actionTable(actions) : el("p", { class: "note" }, t("record.noActions"))),
  ];
}

const section = (title: string, ...content: HTMLElement[]): HTMLElement => el("section", { class: "panel" }, el("h3", {}, title), ...content);

function facts(record: JudgmentRecord): HTMLElement {
  const result = resultOf(record.status, record.final_result);
  const list = el("dl", { class: "facts" });
  const add = (name: string, value: string, testid: string, exact: string | number = value): void =>
    void list.append(el("div", {}, el("dt", {}, name), el("dd", { "data-testid": testid, "data-value": exact }, value)));
  add(t("records.result"), resultWords(result), "record-result", result);
  add(t("records.workflow"), record.workflow_id, "record-workflow");
  add(t("record.version"), String(record.workflow_version), "record-version");
  add(t("records.time"), stamp(record.created_at), "record-created", record.created_at);
  if (record.occurred_at) add(t("record.occurred"), stamp(record.occurred_at), "record-occurred", record.occurred_at);
  add(t("records.took"), format.milliseconds(record.execution_time_ms), "record-took", record.execution_time_ms);
  add(t("records.confidence"), format.confidence(record.confidence_score), "record-confidence", record.confidence_score);
  add(t("records.method"), methodWords(record.method_used), "record-method", record.method_used);
  add(t("record.id"), record.judgment_id, "record-id");
  const heading = el("h2", { tabindex: -1 }, t("record.title"));
  const error = record.error === undefined ? null : el("p", { class: "notice" }, `${t("record.error")}: ${record.error}`);
  return el("section", { class: "panel" }, heading, error, list);
}

function fields(value: unknown): HTMLElement {
  const { rows, cut } = leaves(value);
  const body = el("tbody", {}, ...rows.map(([path, text]) => el("tr", {}, el("th", { scope: "row" }, path), el("td", {}, text))));
  const head = el("tr", {}, el("th", { scope: "col" }, t("record.field")), el("th", { scope: "col" }, t("record.value")));
  return el(
    "div",
    {},
    rows.length ? el("table", { class: "leaves" }, el("thead", {}, head), body) : el("p", { class: "note" }, t("record.empty")),
    cut ? el("p", { class: "note" }, t("record.cut", { n: mostFields })) : null,
    el("details", {}, el("summary", {}, t("record.json")), el("pre", { class: "json", tabindex: 0 }, JSON.stringify(value, null, 2))),
  );
}

function ruleList(record: JudgmentRecord, rules: readonly Rule[]): HTMLElement[] {
  const agreement = record.agrees === undefined ? null : el("p", { class: record.agrees ? "note" : "notice" }, t(record.agrees ? "record.agrees" : "record.differs"));
  const source = el("p", { class: "note" }, t("record.explained", { source: record.explained_from ?? "–" }));
  const list = el("ol", { class: "rules", "data-testid": "rules" }, ...rules.map((rule) => ruleItem(record, rule)));
  const matched = rules.some((rule) => rule.matched || rule.error !== undefined);
  if (rules.length && !matched) {
    list.append(el("li", { class: "matched", "data-state": "matched" }, el("p", {}, el("b", {}, t("record.default")), ` ${t("record.usedDefault")}`)));
  }
  return [source, ...(agreement ? [agreement] : []), list];
}

function ruleItem(record: JudgmentRecord, rule: Rule): HTMLElement {
  const state = rule.error !== undefined ? "failed" : rule.matched ? "matched" : rule.tried ? "notMatched" : "notTried";
  const words: Readonly<Record<string, PlainKey>> = {
    failed: "record.ruleFailed",
    matched: "record.matched",
    notMatched: "record.notMatched",
    notTried: "record.notTried",
  };
  const used = rule.tried ? rule.uses.filter((name) => name.includes(".")) : [];
  const values = used.map((name) => {
    const value = valueOf(record, name);
    return el("li", {}, el("code", {}, `${name} = ${value === undefined ? t("record.absent") : JSON.stringify(value)}`));
  });
  return el(
    "li",
    { class: state, "data-state": state },
    el("p", {}, el("b", {}, rule.name || t("record.rule", { n: rule.index + 1 })), " ", el("span", { class: "verdict" }, t(words[state]!))),
    el("pre", { class: "json", tabindex: 0 }, rule.when),
    values.length ? el("ul", { class: "used" }, ...values) : null,
    rule.matched ? el("p", { class: "note" }, t("record.gives", { result: JSON.stringify(rule.result) })) : null,
    rule.error === undefined ? null : el("p", { class: "bad" }, rule.error),
  );
}

function actionTable(actions: readonly Action[]): HTMLElement {
  const states: Readonly<Record<string, PlainKey>> = { waiting: "record.waiting", succeeded: "record.succeeded", dead: "record.dead" };
  const heads = [t("record.action"), t("record.state"), t("record.attempts"), t("record.destination")];
  const rows = actions.map((action) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, action.action),
      el("td", { title: action.error ?? null }, states[action.state] ? t(states[action.state]!) : action.state),
      el("td", {}, `${action.attempts} / ${action.max_attempts}`),
      el("td", {}, action.destination),
    ),
  );
  return el("table", { class: "leaves" }, el("thead", {}, el("tr", {}, ...heads.map((words) => el("th", { scope: "col" }, words)))), el("tbody", {}, ...rows));
}
