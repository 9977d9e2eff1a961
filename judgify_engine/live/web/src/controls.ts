// The controls of what is shown: time frame, end of the time, workflow. They show what the address asks for, and ask.
import { byId, el, setText } from "./dom";
import * as format from "./format";
import { t } from "./i18n";
import type { Asked } from "./address";
import type { Timeframe } from "./protocol";
import { timeframeS } from "./state";

const timeframes = Object.keys(timeframeS) as Timeframe[];

export interface ControlHandlers {
  /** What is asked for now, with the time frame that is shown. */
  asked(): Asked & { readonly timeframe: Timeframe };
  ask(change: Partial<Asked>): void;
  now(): number;
  /** Any workflow of the tenant, as the person says; null: none. */
  askWorkflow(): Promise<string | null>;
}

/** The choice that leads to all other workflows; no id is this. */
const other = "?";

export class Controls {
  private readonly until = byId<HTMLInputElement>("until");
  private readonly live = byId<HTMLButtonElement>("to-live");
  private readonly later = byId<HTMLButtonElement>("later");
  private readonly workflow = byId<HTMLSelectElement>("workflow-pick");
  private options = "";

  constructor(private readonly handlers: ControlHandlers) {
    for (const timeframe of timeframes) byId(`timeframe-${timeframe}`).addEventListener("change", () => handlers.ask({ timeframe }));
    byId("earlier").addEventListener("click", () => this.step(-1));
    this.later.addEventListener("click", () => this.step(1));
    this.live.addEventListener("click", () => handlers.ask({ until: null }));
    this.until.addEventListener("change", () => this.goTo(Date.parse(this.until.value) / 1000));
    this.workflow.addEventListener("change", () => void this.pick(this.workflow.value));
  }

  private async pick(value: string): Promise<void> {
    if (value !== other) return this.handlers.ask({ workflowId: value || null });
    this.workflow.value = this.handlers.asked().workflowId ?? "";
    const workflowId = await this.handlers.askWorkflow();
    if (workflowId === null) return;
    // The list has the focus again, so nobody else makes it anew.
    if (![...this.workflow.options].some((one) => one.value === workflowId)) {
      this.workflow.lastElementChild!.before(el("option", { value: workflowId }, workflowId));
    }
    this.workflow.value = workflowId;
    this.handlers.ask({ workflowId });
  }

  /** One time frame earlier or later; live where that is not past. */
  private step(by: number): void {
    const { until, timeframe } = this.handlers.asked();
    this.goTo((until ?? this.handlers.now()) + by * timeframeS[timeframe]);
  }

  private goTo(until: number): void {
    this.handlers.ask({ until: Number.isNaN(until) || until >= this.handlers.now() ? null : Math.floor(until) });
  }

  show(): void {
    const { timeframe, until } = this.handlers.asked();
    byId<HTMLInputElement>(`timeframe-${timeframe}`).checked = true;
    this.live.setAttribute("aria-pressed", String(until === null));
    this.later.disabled = until === null;
    const wanted = until === null ? "" : localTime(until);
    if (this.until.value !== wanted) this.until.value = wanted;
  }

  /** Says which time is shown, [from, to) in Unix seconds. */
  showSpan(from: number, to: number): void {
    const { until, timeframe } = this.handlers.asked();
    const say = timeframe === "7d" || until !== null ? format.longDateTime : format.time;
    setText(byId("history-span"), t(until === null ? "range.span" : "range.history", { from: say(from), to: say(to) }));
  }

  /** The workflows to choose from. `only`: those of the dashboard's definition; empty: all, of which `known` are some. */
  showWorkflows(only: readonly string[], known: readonly string[]): void {
    const { workflowId } = this.handlers.asked();
    const ids = new Set(only.length ? only : known);
    if (workflowId !== null) ids.add(workflowId);
    const sorted = [...ids].sort();
    const all = only.length ? t("filter.ofDashboard", { n: only.length }) : t("filter.all");
    const options = [all, ...sorted].join("\n");
    // An open list is not made anew under the pointer.
    if (options !== this.options && document.activeElement !== this.workflow) {
      this.options = options;
      const more = only.length ? [] : [el("option", { value: other }, t("filter.other"))];
      this.workflow.replaceChildren(el("option", { value: "" }, all), ...sorted.map((id) => el("option", { value: id }, id)), ...more);
    }
    if (this.workflow.value !== (workflowId ?? "") && document.activeElement !== this.workflow) this.workflow.value = workflowId ?? "";
  }
}

/** As <input type="datetime-local"> wants it: the viewer's own clock. */
function localTime(unixS: number): string {
  const at = new Date(unixS * 1000);
  const two = (n: number): string => String(n).padStart(2, "0");
  const date = `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${date}T${two(at.getHours())}:${two(at.getMinutes())}`;
}
