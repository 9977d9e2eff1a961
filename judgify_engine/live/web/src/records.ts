// Judgments behind a point of a chart, or any others: a list with filters, and one judgment's whole record.
import { wordsOf } from "./api";
import { button, el, setText } from "./dom";
import { Filters, known, listFilters } from "./filters";
import { t } from "./i18n";
import { chartedAt, judgmentRow, judgmentTable, moveWithKeys, resultOf, stamp, type Judgment } from "./judgments";
import type { Context, Mount, Route } from "./panels";
import { recordView, type JudgmentRecord } from "./record";

interface Page {
  readonly items: readonly (Judgment & { readonly final_result: unknown })[];
  readonly next_cursor: string | null;
}

const pageRows = 50;
/** Pages without a judgment that are passed over by themselves: each looked for one for two seconds at most. */
const emptyPages = 10;

class RecordList {
  readonly root: HTMLElement;
  private readonly table = judgmentTable(t("records.title"));
  private readonly filters: Filters;
  private readonly note = el("p", { class: "note", role: "status" });
  private readonly more: HTMLButtonElement;
  private query = "";
  /** The list is in the order of when things occurred. */
  private byOccurrence = false;
  private cursor: string | null = null;
  private shown = 0;
  private loading: AbortController | null = null;

  constructor(private readonly context: Context) {
    this.filters = new Filters(listFilters, (query) => context.navigate(`#/judgments?${query}`), "records");
    this.more = button(t("records.more"), () => void this.load());
    this.more.hidden = true;
    const head = el("header", { class: "section-head" }, el("h2", {}, t("records.title")), button(t("records.reload"), () => this.reload(), "quiet"));
    this.root = el("section", { class: "panel", "data-testid": "records" }, head, this.filters.root, this.table.root, this.note, el("p", { class: "buttons" }, this.more));
    moveWithKeys(this.table.body);
  }

  /** The list that the address asks for; one that is there already stays as it is, so going back finds it again. */
  show(query: URLSearchParams): void {
    const wanted = known(query, listFilters);
    this.filters.show(wanted);
    if (this.query === wanted.toString() && (this.shown || this.loading)) return;
    this.query = wanted.toString();
    this.byOccurrence = wanted.has("occurred_from") || wanted.has("occurred_to");
    setText(this.table.time, t(this.byOccurrence ? "record.occurred" : "records.time"));
    this.reload();
  }

  stop(): void {
    this.loading?.abort();
    this.loading = null;
  }

  private reload(): void {
    this.stop();
    this.cursor = null;
    this.shown = 0;
    this.table.body.replaceChildren();
    void this.load();
  }

  private async load(): Promise<void> {
    if (this.loading) return;
    const loading = (this.loading = new AbortController());
    this.more.disabled = true;
    setText(this.note, t("records.searching"));
    try {
      let page: Page;
      let tries = 0;
      do {
        const query = new URLSearchParams(this.query);
        query.set("limit", String(pageRows));
        if (this.cursor !== null) query.set("cursor", this.cursor);
        page = await this.context.fetchJson<Page>(`/api/v1/judgments?${query}`, { signal: loading.signal });
        this.cursor = page.next_cursor;
        tries += 1;
      } while (!page.items.length && this.cursor !== null && tries < emptyPages);
      if (this.loading !== loading) return;
      this.add(page);
    } catch (error) {
      if (loading.signal.aborted) return;
      setText(this.note, wordsOf(error));
      this.more.hidden = false;
    }
    this.loading = null;
    this.more.disabled = false;
  }

  private add(page: Page): void {
    for (const item of page.items) {
      const at = this.byOccurrence ? chartedAt(item) : item.created_at;
      this.table.body.append(judgmentRow(item, resultOf(item.status, item.final_result), stamp, at));
    }
    this.shown += page.items.length;
    this.more.hidden = this.cursor === null;
    setText(this.more, page.items.length ? t("records.more") : t("records.further"));
    const words = this.shown ? t("records.shown", { n: this.shown }) : t("records.none");
    if (this.cursor === null) setText(this.note, this.shown ? `${words}. ${t("records.all")}` : words);
    else setText(this.note, page.items.length ? words : t("records.searchedTo"));
  }
}

/** Tries to go back to the list that the person came from; a record whose address was opened by itself has none. */
function backLink(context: Context, came: () => string | null): HTMLElement {
  const link = el("a", { href: "#/judgments" }, t("records.back"));
  link.addEventListener("click", (event) => {
    const list = came();
    if (list === null) return;
    event.preventDefault();
    event.stopPropagation();
    context.navigate(list);
  });
  return el("p", {}, link);
}

export const mountRecords: Mount = (root, context) => {
  const list = new RecordList(context);
  const one = el("div", { class: "record", "data-testid": "record", hidden: true });
  root.append(list.root, one);
  let cameFrom: string | null = null;
  let loading: AbortController | null = null;

  const showRecord = async (id: string): Promise<void> => {
    loading?.abort();
    const mine = (loading = new AbortController());
    const back = backLink(context, () => cameFrom);
    one.replaceChildren(back, el("p", { class: "note", role: "status" }, t("records.searching")));
    try {
      const record = await context.fetchJson<JudgmentRecord>(`/api/v1/judgments/${encodeURIComponent(id)}?explain=true`, { signal: mine.signal });
      if (mine.signal.aborted) return;
      one.replaceChildren(back, ...recordView(record));
      const heading = one.querySelector("h2");
      heading?.focus();
    } catch (error) {
      if (!mine.signal.aborted) one.replaceChildren(back, el("p", { class: "notice", role: "alert" }, wordsOf(error)));
    }
  };
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !one.hidden) context.navigate(cameFrom ?? "#/judgments");
  });
  return {
    show(route: Route): void {
      const { id } = route;
      list.root.hidden = id !== null;
      one.hidden = id === null;
      if (id !== null) return void showRecord(id);
      loading?.abort();
      const query = known(route.query, listFilters).toString();
      cameFrom = query ? `#/judgments?${query}` : "#/judgments";
      list.show(route.query);
    },
    hide(): void {
      loading?.abort();
      list.stop();
      cameFrom = null;
    },
  };
};
