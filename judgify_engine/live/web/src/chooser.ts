// Which dashboards there are: the list to choose from, and making a new one.
import { addressOf, mainId } from "./address";
import { wordsOf } from "./api";
import { freshId, type Definition, type Listed, type Stored } from "./definition";
import { ask, field } from "./dialog";
import { el } from "./dom";
import { put } from "./editor";
import { t } from "./i18n";
import { Refused } from "./panels";
import type { Shell } from "./shell";

export class Chooser {
  private listed: readonly Listed[] = [];

  constructor(
    private readonly select: HTMLSelectElement,
    private readonly shell: Shell,
  ) {}

  /** Reads the list again; what cannot be read leaves it as it is. */
  async refresh(): Promise<void> {
    try {
      this.listed = (await this.shell.context.fetchJson<{ dashboards: Listed[] }>("/api/v1/dashboards")).dashboards;
    } catch {
      return; // the connection's state says that the server is away; the list comes with the next visit
    }
    this.show(this.select.value);
  }

  /** Shows which one is open; `name`: where it is not in the list. */
  show(id: string, name = ""): void {
    const options = this.listed.map((one) => ({ id: one.dashboard_id, name: one.dashboard_id === id && name ? name : one.name }));
    if (id && !options.some((one) => one.id === id)) options.unshift({ id, name: name || id });
    this.select.replaceChildren(...options.map((one) => el("option", { value: one.id }, one.name)));
    this.select.value = id;
  }

  /** Asks for a name and makes a dashboard; goes there. `from`: the one that is open. */
  async create(from: Definition): Promise<void> {
    const name = el("input", { type: "text", maxlength: 200 });
    const copy = el("input", { type: "checkbox", checked: true });
    const check = el("label", { class: "check" }, copy, t("dashboards.copyOf"));
    const made = await ask({
      title: t("dashboards.newTitle"),
      content: [field(t("dashboards.name"), name), check],
      choices: [{ words: t("dashboards.create"), value: true }],
      check: () => (name.value.trim() ? null : t("form.needsName")),
    });
    if (!made) return;
    const definition = { ...from, name: name.value.trim(), charts: copy.checked ? from.charts : [] };
    try {
      await this.store(definition);
    } catch (error) {
      this.shell.complain(wordsOf(error));
    }
  }

  /** Stores a definition under an id that is free, and goes there. Throws Refused. */
  async store(definition: Definition): Promise<void> {
    const taken = [mainId, ...this.listed.map((one) => one.dashboard_id)];
    for (let attempt = 0; ; attempt++) {
      const id = freshId(definition.name, taken);
      try {
        await put(this.shell.context.fetchJson, id, definition, 0);
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 412 || attempt >= 5) throw error;
        taken.push(id); // somebody was faster
        continue;
      }
      this.shell.announce(t("dashboards.created", { name: definition.name }));
      await this.refresh();
      return this.shell.go(addressOf({ dashboardId: id, timeframe: null, workflowId: null, until: null }));
    }
  }

  /** Deletes it, and goes to main, which always exists. Throws Refused. */
  async remove(stored: Stored): Promise<void> {
    const headers = { "If-Match": `"${stored.version}"` };
    await this.shell.context.fetchJson(`/api/v1/dashboards/${encodeURIComponent(stored.id)}`, { method: "DELETE", headers });
    this.shell.announce(t("dashboards.deleted", { name: stored.definition.name }));
    await this.refresh();
    this.shell.go(addressOf({ dashboardId: mainId, timeframe: null, workflowId: null, until: null }));
  }
}
