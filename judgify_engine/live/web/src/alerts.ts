// Alerts: what is firing, what was, with the reason and the numbers it was found by, and whom it was told to. They can be
// acknowledged and silenced by who may.
import { wordsOf } from "./api";
import { button, el, setText } from "./dom";
import { t, type PlainKey } from "./i18n";
import { stamp } from "./judgments";
import type { Context, Mount, Route } from "./panels";

interface Delivery {
  readonly sink_id: string;
  readonly kind: string;
  readonly event: "firing" | "resolved";
  readonly state: "waiting" | "delivered" | "failed" | "silenced";
  readonly attempts: number;
  readonly last_error: string | null;
}

interface Alert {
  readonly alert_id: string;
  readonly rule_id: string;
  readonly rule_version: number;
  readonly severity: "info" | "warning" | "critical";
  readonly state: "firing" | "resolved";
  readonly workflow_id: string | null;
  readonly summary: string;
  readonly reason: string;
  readonly numbers: Readonly<Record<string, unknown>>;
  readonly started_at: string;
  readonly fired_at: string;
  readonly resolved_at: string | null;
  readonly acknowledged_at: string | null;
  readonly acknowledged_by: string | null;
  readonly silenced_by: string | null;
  readonly deliveries: readonly Delivery[];
}

interface AlertPage {
  readonly alerts: readonly Alert[];
  readonly cursor: string | null;
  readonly evaluated_through?: string | null;
}

interface Silence {
  readonly silence_id: string;
  readonly rule_id: string | null;
  readonly workflow_id: string | null;
  readonly severity: string | null;
  readonly ends_at: string;
  readonly comment: string;
  readonly active: boolean;
}

const severities: Readonly<Record<string, PlainKey>> = { info: "alerts.info", warning: "alerts.warning", critical: "alerts.critical" };
const deliveryStates: Readonly<Record<string, PlainKey>> = {
  waiting: "alerts.waiting",
  delivered: "alerts.delivered",
  failed: "alerts.failed",
  silenced: "alerts.silenced",
};
const states: readonly (readonly [state: string, words: PlainKey])[] = [
  ["firing", "alerts.firing"],
  ["resolved", "alerts.resolved"],
  ["", "alerts.every"],
];
const pageAlerts = 50;
const refreshMs = 30_000;
/** Changes come in heaps; the list is read once for all. */
const settleMs = 300;
const silenceHours = [1, 4, 24, 168];

class AlertsPanel {
  private readonly list = el("ul", { class: "alerts", "data-testid": "alerts" });
  private readonly silences = el("ul", { class: "silences" });
  private readonly silenceSection: HTMLElement;
  private readonly note = el("p", { class: "note", role: "status" });
  private readonly evaluated = el("p", { class: "note" });
  private readonly more: HTMLButtonElement;
  private readonly radios = new Map<string, HTMLInputElement>();
  private state = "firing";
  private loading: AbortController | null = null;
  private timer = 0;
  private open = false;
  private cursor: string | null = null;
  /** Further pages are shown: reading the first one anew would take them away under the reader's eyes. */
  private further = false;
  private dialogOpen = false;

  constructor(
    root: HTMLElement,
    private readonly context: Context,
  ) {
    const segments = el("fieldset", { class: "segments" }, el("legend", { class: "visually-hidden" }, t("alerts.state")));
    for (const [state, words] of states) {
      const radio = el("input", { type: "radio", name: "alert-state", value: state, id: `alert-state-${state || "all"}` });
      radio.addEventListener("change", () => context.navigate(state === "firing" ? "#/alerts" : `#/alerts?state=${state}`));
      this.radios.set(state, radio);
      segments.append(el("label", {}, radio, el("span", {}, t(words))));
    }
    this.more = button(t("records.more"), () => void this.load(true));
    this.more.hidden = true;
    const head = el("header", { class: "section-head" }, el("h2", {}, t("alerts.title")), segments);
    this.silenceSection = el("section", { class: "panel", hidden: true }, el("h3", {}, t("alerts.silences")), this.silences);
    root.append(el("section", { class: "panel" }, head, this.evaluated, this.note, this.list, el("p", { class: "buttons" }, this.more)), this.silenceSection);
    context.onSocketMessage((message) => {
      if (message.type === "alerts" && this.open) this.loadSoon(settleMs);
    });
  }

  show(route: Route): void {
    const asked = route.query.get("state");
    const state = asked === null ? "firing" : states.some(([name]) => name === asked) ? asked : "";
    const same = this.open && this.state === state;
    this.state = state;
    this.radios.get(state)!.checked = true;
    this.open = true;
    if (same) return;
    this.list.replaceChildren();
    this.further = false;
    void this.load(false);
  }

  hide(): void {
    this.open = false;
    this.loading?.abort();
    this.loading = null;
    clearTimeout(this.timer);
  }

  private loadSoon(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.further || this.dialogOpen) this.loadSoon(refreshMs);
      else void this.load(false);
    }, ms);
  }

  private async load(next: boolean): Promise<void> {
    this.loading?.abort();
    const loading = (this.loading = new AbortController());
    const { signal } = loading;
    const query = new URLSearchParams({ limit: String(pageAlerts) });
    if (this.state) query.set("state", this.state);
    if (next && this.cursor !== null) query.set("cursor", this.cursor);
    try {
      const [page, silences] = await Promise.all([
        this.context.fetchJson<AlertPage>(`/api/v1/alerts?${query}`, { signal }),
        this.context.fetchJson<{ silences: readonly Silence[] }>("/api/v1/silences", { signal }),
      ]);
      if (signal.aborted) return;
      this.further = next;
      this.draw(page, next);
      this.drawSilences(silences.silences.filter((silence) => silence.active));
    } catch (error) {
      if (signal.aborted) return;
      setText(this.note, wordsOf(error));
    }
    if (this.open) this.loadSoon(refreshMs);
  }

  private draw(page: AlertPage, next: boolean): void {
    const opened = new Set([...this.list.querySelectorAll<HTMLElement>("details[open]")].map((details) => details.dataset.of));
    const focused = document.activeElement?.closest<HTMLElement>("[data-of]")?.dataset.of;
    const items = page.alerts.map((alert) => this.item(alert));
    if (next) this.list.append(...items);
    else this.list.replaceChildren(...items);
    for (const details of this.list.querySelectorAll("details")) details.open ||= opened.has(details.dataset.of);
    if (focused) this.focus(focused);
    this.cursor = page.cursor;
    this.more.hidden = page.cursor === null;
    const none = t(this.state === "firing" ? "alerts.noneFiring" : "alerts.none");
    setText(this.note, this.list.children.length ? "" : none);
    const through = page.evaluated_through;
    if (through !== undefined) setText(this.evaluated, through === null ? t("alerts.notEvaluated") : t("alerts.evaluated", { time: stamp(through) }));
  }

  /** Gives the focus back to what was made anew; where its button is gone, to another one of the same alert. */
  private focus(of: string): void {
    const id = of.slice(of.indexOf(" ") + 1);
    const wanted = [of, `silence ${id}`, `judgments ${id}`].map((name) => this.list.querySelector<HTMLElement>(`[data-of="${CSS.escape(name)}"]`)).find(Boolean);
    (wanted?.querySelector<HTMLElement>("summary") ?? wanted)?.focus();
  }

  private item(alert: Alert): HTMLElement {
    const severity = severities[alert.severity];
    const time = alert.resolved_at === null ? t("alerts.since", { time: stamp(alert.started_at) }) : t("alerts.over", { from: stamp(alert.started_at), to: stamp(alert.resolved_at) });
    const acknowledged = alert.acknowledged_at === null ? null : el("p", { class: "note" }, acknowledgedWords(alert.acknowledged_at, alert.acknowledged_by));
    const head = el(
      "p",
      { class: "alert-head" },
      el("span", { class: `severity ${alert.severity}` }, severity ? t(severity) : alert.severity),
      el("b", {}, alert.summary || alert.rule_id),
      el("span", { class: "alert-state" }, t(alert.state === "firing" ? "alerts.firing" : "alerts.resolved")),
      alert.silenced_by === null ? null : el("span", { class: "alert-state" }, t("alerts.silenced")),
    );
    const about = [t("alerts.rule", { rule: alert.rule_id, version: String(alert.rule_version) }), alert.workflow_id ?? t("alerts.allWorkflows"), time];
    return el(
      "li",
      { "data-alert": alert.alert_id, "data-state": alert.state },
      head,
      el("p", {}, alert.reason),
      el("p", { class: "note" }, about.join(" · ")),
      acknowledged,
      numbers(alert),
      deliveries(alert),
      this.tools(alert),
    );
  }

  private tools(alert: Alert): HTMLElement {
    const behind = new URLSearchParams({ created_from: windowStart(alert) });
    if (alert.resolved_at !== null) behind.set("created_to", alert.resolved_at);
    if (alert.workflow_id !== null) behind.set("workflow_id", alert.workflow_id);
    const tools = el("p", { class: "buttons" }, el("a", { href: `#/judgments?${behind}`, "data-of": `judgments ${alert.alert_id}` }, t("alerts.judgments")));
    if (!this.context.mayChange()) return tools;
    if (alert.acknowledged_at === null) {
      const acknowledge = button(t("alerts.acknowledge"), () => void this.change(`/api/v1/alerts/${encodeURIComponent(alert.alert_id)}/acknowledge`, "POST", {}));
      acknowledge.dataset.of = `acknowledge ${alert.alert_id}`;
      tools.append(acknowledge);
    }
    const silence = button(t("alerts.silence"), () => this.askSilence(alert), "quiet");
    silence.dataset.of = `silence ${alert.alert_id}`;
    tools.append(silence);
    return tools;
  }

  private askSilence(alert: Alert): void {
    const hours = el("select", { name: "hours", "aria-label": t("alerts.silenceFor", { rule: alert.rule_id }) }, ...silenceHours.map((n) => el("option", { value: n }, t("alerts.hours", { n }))));
    const comment = el("input", { type: "text", name: "comment", maxlength: 2000, "aria-label": t("alerts.comment"), placeholder: t("alerts.comment") });
    const dialog = el("dialog", { class: "ask" });
    const form = el(
      "form",
      { method: "dialog" },
      el("p", {}, t("alerts.silenceFor", { rule: alert.rule_id })),
      hours,
      comment,
      el("p", { class: "buttons" }, el("button", { value: "yes" }, t("alerts.confirm")), el("button", { value: "", class: "quiet", formnovalidate: true }, t("alerts.cancel"))),
    );
    dialog.append(form);
    dialog.addEventListener("close", () => {
      this.dialogOpen = false;
      dialog.remove();
      if (dialog.returnValue !== "yes") return;
      const ends = new Date(Date.now() + Number(hours.value) * 3_600_000).toISOString();
      const body = { rule_id: alert.rule_id, workflow_id: alert.workflow_id, ends_at: ends, comment: comment.value };
      void this.change(`/api/v1/silences/page-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`, "PUT", body);
    });
    document.body.append(dialog);
    this.dialogOpen = true;
    dialog.showModal();
  }

  private drawSilences(silences: readonly Silence[]): void {
    this.silenceSection.hidden = !silences.length;
    this.silences.replaceChildren(
      ...silences.map((silence) => {
        const what = [silence.rule_id, silence.workflow_id, silence.severity, silence.comment].filter(Boolean).join(" · ");
        const end = button(t("alerts.end"), () => void this.change(`/api/v1/silences/${encodeURIComponent(silence.silence_id)}`, "DELETE"), "quiet");
        return el("li", {}, el("span", {}, what || t("alerts.every")), el("span", { class: "note" }, t("alerts.until", { time: stamp(silence.ends_at) })), this.context.mayChange() ? end : null);
      }),
    );
  }

  private async change(path: string, method: string, body?: unknown): Promise<void> {
    try {
      await this.context.fetchJson(path, body === undefined ? { method } : { method, body });
      this.context.announce(t("alerts.done"));
      this.further = false;
      await this.load(false);
    } catch (error) {
      setText(this.note, wordsOf(error));
    }
  }
}

/** The figures that made it fire are of a window that ends where the alert begins. */
function windowStart({ numbers: { from }, started_at }: Alert): string {
  return typeof from === "string" && from < started_at ? from : started_at;
}

function acknowledgedWords(at: string, by: string | null): string {
  const time = stamp(at);
  return by ? t("alerts.acknowledged", { by, time }) : t("alerts.acknowledgedTime", { time });
}

function numbers(alert: Alert): HTMLElement | null {
  const entries = Object.entries(alert.numbers);
  if (!entries.length) return null;
  const rows = entries.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, typeof value === "string" ? value : JSON.stringify(value))));
  return el("details", { "data-of": `numbers ${alert.alert_id}` }, el("summary", {}, t("alerts.numbers")), el("table", { class: "leaves" }, el("tbody", {}, ...rows)));
}

function deliveries(alert: Alert): HTMLElement | null {
  if (!alert.deliveries.length) return null;
  const items = alert.deliveries.map((delivery) => {
    const state = deliveryStates[delivery.state];
    const words = [
      delivery.sink_id,
      t(delivery.event === "firing" ? "alerts.firing" : "alerts.resolved"),
      state ? t(state) : delivery.state,
      t("alerts.attempts", { n: delivery.attempts }),
      ...(delivery.last_error ? [delivery.last_error] : []),
    ];
    return el("li", { class: delivery.state === "failed" ? "bad" : null, "data-delivery": delivery.state }, words.join(" · "));
  });
  return el("details", { "data-of": `deliveries ${alert.alert_id}` }, el("summary", {}, t("alerts.deliveries")), el("ul", {}, ...items));
}

export const mountAlerts: Mount = (root, context) => {
  const panel = new AlertsPanel(root, context);
  return { show: (route) => panel.show(route), hide: () => panel.hide() };
};
