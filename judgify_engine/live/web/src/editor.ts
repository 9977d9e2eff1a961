// Editing a dashboard without code. A draft is kept here until it was saved or given up; the server decides whether the
// version that it was made from is still the current one, and where it is not, the person decides, and loses nothing.
import { wordsOf } from "./api";
import { askChart } from "./chartform";
import type { Card } from "./cards";
import * as definitions from "./definition";
import { maxCharts, type Definition, type Stored } from "./definition";
import { ask, field, select } from "./dialog";
import { button, el } from "./dom";
import { t } from "./i18n";
import { Refused, type Context } from "./panels";
import type { Timeframe } from "./protocol";
import { titleOf } from "./specs";

export interface EditorServices extends Pick<Context, "fetchJson" | "announce"> {
  /** Shows a draft. */
  show(draft: Definition): void;
  /** The draft was saved, or given up for what the server has: show this. */
  taken(stored: Stored): void;
  /** Makes a dashboard of its own out of the draft, and goes there. */
  makeNew(definition: Definition): Promise<void>;
  remove(stored: Stored): Promise<void>;
  cards(): readonly Card[];
  /** Shows that something failed; "": it did not. */
  complain(words: string): void;
}

export class Editor {
  private stored: Stored | null = null;
  private draft: Definition | null = null;
  private readonly name = el("input", { type: "text", maxlength: 200 });
  private readonly timeframe = select<Timeframe>(
    (["1h", "6h", "24h", "7d"] as const).map((one) => [one, t(`range.${one}`)]),
    "1h",
  );
  private readonly workflows = el("input", { type: "text", spellcheck: "false", autocapitalize: "off" });
  private readonly note = el("p", { class: "note", role: "status" });
  private readonly save: HTMLButtonElement;

  constructor(
    private readonly root: HTMLElement,
    private readonly services: EditorServices,
  ) {
    this.save = button(t("edit.save"), () => void this.store(), "primary");
    const fields = [
      field(t("dashboards.name"), this.name),
      field(t("edit.timeframe"), this.timeframe),
      field(t("edit.workflows"), this.workflows, t("edit.workflowsHelp")),
    ];
    const buttons = [
      this.save,
      button(t("edit.addChart"), () => void this.addChart()),
      button(t("edit.cancel"), () => void this.cancel()),
      button(t("edit.delete"), () => void this.remove(), "danger push"),
    ];
    root.setAttribute("aria-label", t("edit.title"));
    root.append(el("div", { class: "fields" }, ...fields), this.note, el("div", { class: "buttons" }, ...buttons));
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") void this.cancel();
    });
    addEventListener("beforeunload", (event) => {
      if (this.dirty) event.preventDefault();
    });
  }

  get open(): boolean {
    return this.draft !== null;
  }

  get dirty(): boolean {
    return this.draft !== null && !definitions.same(this.current(), this.stored!.definition);
  }

  /** Whether the page may show something else: nothing is unsaved, or it may be lost. Closes the editor where it may. */
  async mayLeave(): Promise<boolean> {
    if (this.dirty) {
      const choices = [{ words: t("edit.discard"), value: true, className: "danger" }];
      if (!(await ask({ title: t("edit.leave"), content: [], choices }, t("conflict.back")))) return false;
    }
    if (this.open) {
      this.close();
      this.services.show(this.stored!.definition);
    }
    return true;
  }

  start(stored: Stored): void {
    this.stored = stored;
    this.draft = stored.definition;
    this.name.value = stored.definition.name;
    this.timeframe.value = stored.definition.timeframe;
    this.workflows.value = stored.definition.workflow_ids.join(", ");
    this.note.textContent = "";
    this.root.hidden = false;
    document.body.classList.add("editing");
    this.showDraft();
    this.name.focus();
  }

  /** Another version became the current one while this one is edited. */
  superseded(version: number): void {
    if (this.stored && version > this.stored.version) this.note.textContent = t("edit.others", { version });
  }

  private close(): void {
    this.draft = null;
    this.root.hidden = true;
    document.body.classList.remove("editing");
    for (const card of this.services.cards()) card.tools.replaceChildren();
  }

  private async cancel(): Promise<void> {
    const { stored } = this;
    if (stored && this.open && (await this.mayLeave())) this.services.taken(stored);
  }

  /** The draft with what the fields say. */
  private current(): Definition {
    const ids = this.workflows.value.split(/[\s,]+/).filter(Boolean);
    return {
      ...this.draft!,
      name: this.name.value.trim(),
      timeframe: this.timeframe.value as Timeframe,
      workflow_ids: [...new Set(ids)],
    };
  }

  private change(draft: Definition): void {
    this.draft = draft;
    this.showDraft();
  }

  private showDraft(): void {
    this.services.show(this.draft!);
    const { charts } = this.draft!;
    this.services.cards().forEach((card, i) => {
      if (!card.tools.childElementCount) card.tools.append(...this.toolsOf(card));
      card.tools.querySelector<HTMLButtonElement>("[data-move='-1']")!.disabled = i === 0;
      card.tools.querySelector<HTMLButtonElement>("[data-move='1']")!.disabled = i === charts.length - 1;
    });
  }

  private toolsOf(card: Card): HTMLButtonElement[] {
    const { id } = card.definition;
    const title = titleOf(card.definition);
    const tool = (sign: string, words: string, act: () => void): HTMLButtonElement => {
      const made = button(sign, act, "quiet icon");
      made.title = words;
      made.setAttribute("aria-label", words);
      return made;
    };
    const earlier = tool("↑", t("edit.earlier", { title }), () => this.move(id, -1));
    const later = tool("↓", t("edit.later", { title }), () => this.move(id, 1));
    earlier.dataset.move = "-1";
    later.dataset.move = "1";
    return [
      earlier,
      later,
      tool("✎", t("edit.change", { title }), () => void this.changeChart(id)),
      tool("×", t("edit.remove", { title }), () => this.removeChart(id, title)),
    ];
  }

  private move(id: string, by: number): void {
    this.change(definitions.move(this.draft!, id, by));
    const { charts } = this.draft!;
    const place = charts.findIndex((chart) => chart.id === id);
    const title = titleOf(charts[place]!);
    const tools = this.services.cards()[place]!.tools;
    const pressed = tools.querySelector<HTMLButtonElement>(`[data-move='${by}']`)!;
    (pressed.disabled ? tools.querySelector<HTMLButtonElement>(`[data-move='${-by}']`)! : pressed).focus();
    this.services.announce(t("edit.moved", { title, place: place + 1, count: charts.length }));
  }

  private removeChart(id: string, title: string): void {
    this.change(definitions.remove(this.draft!, id));
    this.services.announce(t("edit.removed", { title }));
    this.save.focus();
  }

  private async addChart(): Promise<void> {
    if (this.draft!.charts.length >= maxCharts) return this.services.complain(t("edit.full", { n: maxCharts }));
    const chart = await askChart(null, await this.fields());
    if (!chart || !this.draft) return;
    this.change(definitions.add(this.draft, chart));
    this.focusOn(this.draft.charts.at(-1)!.id);
  }

  private async changeChart(id: string): Promise<void> {
    const old = this.draft!.charts.find((chart) => chart.id === id)!;
    const chart = await askChart(old, await this.fields());
    if (!chart || !this.draft) return;
    this.change(definitions.change(this.draft, id, chart));
    this.focusOn(id);
  }

  private focusOn(id: string): void {
    const card = this.services.cards().find((one) => one.definition.id === id)!;
    card.root.scrollIntoView({ block: "nearest" });
    card.tools.querySelector<HTMLButtonElement>("button:not(:disabled)")?.focus();
  }

  /** Fields of inputs that some workflow tracks. */
  private async fields(): Promise<string[]> {
    const prefix = "input.";
    try {
      const { available } = await this.services.fetchJson<{ available: string[] }>("/api/v1/metrics");
      return available.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
    } catch {
      return []; // the form says that there are none; what is chosen already can be kept
    }
  }

  private async store(over: number | null = null): Promise<void> {
    const mine = this.current();
    const { id, version } = this.stored!;
    if (!mine.name) {
      this.note.textContent = t("form.needsName");
      return this.name.focus();
    }
    this.save.disabled = true;
    this.save.textContent = t("edit.saving");
    try {
      const answer = await put(this.services.fetchJson, id, mine, over ?? version);
      this.close();
      this.services.complain("");
      this.services.announce(t("edit.saved"));
      this.services.taken(definitions.readStored(id, answer));
    } catch (error) {
      if (error instanceof Refused && error.status === 412) await this.conflict(mine);
      else this.services.complain(wordsOf(error));
    } finally {
      this.save.disabled = false;
      this.save.textContent = t("edit.save");
    }
  }

  /** Somebody saved another version meanwhile: show what differs, and let the person choose. */
  private async conflict(mine: Definition): Promise<void> {
    const { id, version } = this.stored!;
    const theirs = definitions.readStored(id, await this.services.fetchJson(`/api/v1/dashboards/${encodeURIComponent(id)}`));
    const names = (ids: readonly string[], of: Definition): string =>
      ids.map((one) => titleOf(of.charts.find((chart) => chart.id === one)!)).join(", ");
    const { added, removed, changed } = definitions.differences(mine, theirs.definition);
    const points = [
      added.length ? t("conflict.added", { charts: names(added, theirs.definition) }) : "",
      removed.length ? t("conflict.removed", { charts: names(removed, mine) }) : "",
      changed.length ? t("conflict.changed", { charts: names(changed, mine) }) : "",
      settings(mine) !== settings(theirs.definition) ? t("conflict.settings") : "",
    ].filter(Boolean);
    if (!points.length && !definitions.same(mine, theirs.definition)) points.push(t("conflict.order"));
    const choice = await ask(
      {
        title: t("conflict.title"),
        content: [t("conflict.text", { theirs: theirs.version, mine: version }), el("ul", { class: "points" }, ...points.map((words) => el("li", {}, words)))],
        choices: [
          { words: t("conflict.copy"), value: "copy" },
          { words: t("conflict.mine"), value: "mine" },
          { words: t("conflict.theirs"), value: "theirs", className: "danger" },
        ],
      },
      t("conflict.back"),
    );
    if (choice === "mine") await this.store(theirs.version);
    else if (choice === "copy") await this.services.makeNew(mine).then(() => this.close());
    else if (choice === "theirs") {
      this.close();
      this.services.taken(theirs);
    } else this.superseded(theirs.version);
  }

  private async remove(): Promise<void> {
    const stored = this.stored!;
    const words = stored.id === "main" ? t("edit.deleteMain") : t("edit.deleteText", { name: stored.definition.name });
    const choices = [{ words: t("edit.deleteConfirm"), value: true, className: "danger" }];
    if (!(await ask({ title: t("edit.deleteTitle"), content: [words], choices }))) return;
    try {
      await this.services.remove(stored);
      this.close();
    } catch (error) {
      this.services.complain(wordsOf(error));
    }
  }
}

const settings = ({ name, timeframe, workflow_ids }: Definition): string => JSON.stringify([name, timeframe, workflow_ids]);

/** Stores a definition where `version` is the current one; 0: where there is none. Throws Refused, 412 where another is. */
export function put(fetchJson: Context["fetchJson"], id: string, definition: Definition, version: number): Promise<Record<string, unknown>> {
  return fetchJson<Record<string, unknown>>(`/api/v1/dashboards/${encodeURIComponent(id)}`, {
    method: "PUT",
    body: definitions.written(definition),
    headers: { "If-Match": `"${version}"` },
  });
}
