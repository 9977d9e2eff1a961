// The live tail: judgments as they are committed, filtered on the server, newest first; it can be paused and read in peace.
import { Connection } from "./connection";
import { button, el, setText } from "./dom";
import { Filters, known, tailFilters } from "./filters";
import { t } from "./i18n";
import { clock, judgmentRow, judgmentTable, moveWithKeys } from "./judgments";
import type { Context, Mount, Route } from "./panels";
import { mostLines, parseTail, TailRows, type Line } from "./tailrows";

class TailPanel {
  private readonly table = judgmentTable(t("tail.list"));
  private readonly filters: Filters;
  private readonly pauseButton: HTMLButtonElement;
  private readonly count = el("p", { class: "note", "data-testid": "tail-count", "data-value": "0" });
  private readonly state = el("span", { class: "connection", "data-testid": "tail-connection", "data-state": "connecting" }, t("connection.connecting"));
  private readonly connection: Connection;
  private rows = new TailRows();
  private query = new URLSearchParams();
  private wasLive = false;
  private frame = 0;
  private due: Line[] = [];
  private open = false;

  constructor(
    root: HTMLElement,
    private readonly context: Context,
  ) {
    this.filters = new Filters(tailFilters, (query) => context.navigate(`#/tail?${query}`), "tail");
    this.pauseButton = button(t("tail.pause"), () => this.toggle());
    this.pauseButton.dataset.testid = "tail-pause";
    const head = el("header", { class: "section-head" }, el("h2", {}, t("tail.title")), this.state, this.pauseButton);
    const list = el("div", { class: "tail-list", tabindex: 0, role: "region", "aria-label": t("tail.list") }, this.table.root);
    root.append(el("section", { class: "panel", "data-testid": "tail" }, head, this.filters.root, this.count, list, el("p", { class: "note" }, t("tail.keys"))));
    moveWithKeys(this.table.body);
    this.connection = new Connection(() => this.address(), {
      message: (text) => this.take(text),
      status: (status) => {
        this.state.dataset.state = status.kind;
        setText(this.state, t(`connection.${status.kind}`));
        if (status.kind !== "live" && this.wasLive) this.lay(this.rows.lose());
        this.wasLive = status.kind === "live";
      },
      refused: () => void context.fetchJson("/session").catch(() => undefined), // leaves for the sign-in page where it has ended
    });
    document.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(route: Route): void {
    const query = known(route.query, tailFilters);
    this.filters.show(query);
    if (this.open && this.query.toString() === query.toString()) return;
    this.query = query;
    this.open = true;
    this.rows = new TailRows();
    this.wasLive = false;
    this.due = [];
    this.table.body.replaceChildren();
    this.tell();
    this.connection.open();
  }

  hide(): void {
    this.open = false;
    this.connection.stop();
  }

  private address(): string {
    const query = this.query.toString();
    return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/tail${query ? `?${query}` : ""}`;
  }

  private take(text: unknown): void {
    const message = parseTail(text);
    if (!message) return;
    this.lay(this.rows.take(message));
    this.tell();
  }

  /** Puts lines on top with the next frame: however fast they come, the page is laid out once for all. */
  private lay(lines: readonly Line[]): void {
    this.due.push(...lines);
    if (this.due.length > mostLines) this.due.splice(0, this.due.length - mostLines);
    if (!this.due.length || this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      const rows = this.due.reverse().map((line) => this.row(line));
      this.due = [];
      this.table.body.prepend(...rows);
      while (this.table.body.rows.length > mostLines) this.table.body.rows[this.table.body.rows.length - 1]!.remove();
    });
  }

  private row(line: Line): HTMLTableRowElement {
    if (line.kind === "judgment") return judgmentRow(line.judgment, line.judgment.result, clock);
    const words = line.kind === "skipped" ? t("tail.skipped", { n: line.count }) : t(line.kind === "gap" ? "tail.gap" : "tail.lost");
    return el("tr", { class: "remark", "data-remark": line.kind }, el("td", { colspan: 6 }, words));
  }

  private toggle(): void {
    if (this.rows.paused) this.lay(this.rows.resume());
    else this.rows.pause();
    this.pauseButton.setAttribute("aria-pressed", String(this.rows.paused));
    setText(this.pauseButton, this.rows.paused ? t("tail.resume") : t("tail.pause"));
    this.tell();
    this.context.announce(this.count.textContent ?? "");
  }

  private tell(): void {
    const { paused, meanwhile, seen } = this.rows;
    this.count.dataset.value = String(paused ? meanwhile : seen);
    if (paused) setText(this.count, t("tail.paused", { n: meanwhile }));
    else setText(this.count, seen ? t("tail.running", { n: seen }) : t("tail.waiting"));
    this.pauseButton.setAttribute("aria-pressed", String(paused));
    setText(this.pauseButton, paused ? t("tail.resume") : t("tail.pause"));
  }

  private onKey(event: KeyboardEvent): void {
    const target = event.target instanceof Element ? event.target : null;
    if (!this.open || event.key !== " " || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target?.closest("input, select, textarea, button, a, summary, [role=dialog], dialog")) return;
    event.preventDefault();
    this.toggle();
  }
}

export const mountTail: Mount = (root, context) => {
  const panel = new TailPanel(root, context);
  return { show: (route) => panel.show(route), hide: () => panel.hide() };
};
