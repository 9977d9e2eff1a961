// The dashboard's panel: one definition, its charts, and the figures around them, live or of a time that is past. A message
// changes the state at once; the page follows at most once per animation frame, and not at all while nobody can see it.
import { addressOf, readAddress, socketAddress, type Asked } from "./address";
import { wordsOf } from "./api";
import { Board } from "./board";
import { Chooser } from "./chooser";
import { Connection, type Status } from "./connection";
import { Controls } from "./controls";
import { readStored, type Definition, type Stored } from "./definition";
import { byId, setText } from "./dom";
import { Editor } from "./editor";
import { loadPast, type Past } from "./history";
import { t } from "./i18n";
import { LiveCharts } from "./livecharts";
import { Refused } from "./panels";
import { frameAt } from "./points";
import { isFigures, parse, type Timeframe } from "./protocol";
import type { Shell } from "./shell";
import { apply, initialState, serverNow, timeframeS, type State } from "./state";
import { commands, renderConnection, renderEmpty, renderFigures, renderLists } from "./view";
import { askWorkflow } from "./workflows";

const exampleWorkflow = "test-workflow-3";
const now = (): number => performance.now() / 1000;

export class DashboardPanel {
  private state: State = initialState;
  private stored: Stored | null = null;
  private loading: AbortController | null = null;
  private past: { key: string; figures: Map<string, Past>; abort: AbortController } | null = null;
  /** The socket's address without a position, and whether figures of it have come: only to such can one come back. */
  private address = "";
  private seen = "";
  /** Why another dashboard is shown than the one that was asked for. */
  private missed = "";
  private frame = 0;
  private ticker = 0;
  private said: Status["kind"] = "connecting";
  private readonly connection: Connection;
  private readonly board: Board;
  private readonly live: LiveCharts;
  private readonly controls: Controls;
  private readonly chooser: Chooser;
  readonly editor: Editor;

  constructor(private readonly shell: Shell) {
    const announce = (words: string): void => shell.announce(words);
    this.connection = new Connection(() => this.socketUrl(), {
      message: (text) => this.receive(text),
      status: (status) => this.changed(status),
      refused: () => void shell.checkSession(),
    });
    this.board = new Board(byId("charts"), {
      announce,
      drill: (filters) => this.drill(filters),
      workflowHref: (workflowId) => addressOf({ ...readAddress(location.search), workflowId }),
    });
    this.live = new LiveCharts(announce);
    this.controls = new Controls({
      asked: () => this.asked(),
      ask: (change) => shell.go(addressOf({ ...readAddress(location.search), ...change })),
      now: () => serverNow(this.state, now()) || Date.now() / 1000,
      askWorkflow: () => askWorkflow(shell.context.fetchJson),
    });
    this.chooser = new Chooser(byId<HTMLSelectElement>("dashboard-pick"), shell);
    this.editor = new Editor(byId("editor"), {
      fetchJson: shell.context.fetchJson,
      announce,
      show: (draft) => this.take(draft),
      taken: (stored) => this.takeStored(stored),
      makeNew: (definition) => this.chooser.store(definition),
      remove: (stored) => this.chooser.remove(stored),
      cards: () => this.board.shown,
      complain: (words) => shell.complain(words),
    });
    byId("retry").addEventListener("click", () => this.connection.retryNow());
    byId("dashboard-pick").addEventListener("change", (event) => void this.choose((event.target as HTMLSelectElement).value));
    byId("dashboard-new").addEventListener("click", () => void this.create());
    byId("dashboard-edit").addEventListener("click", () => this.edit());
    document.addEventListener("visibilitychange", () => this.tick());
    this.tick();
    void this.chooser.refresh();
  }

  /** What the address asks for, the time frame filled in. */
  private asked(): Asked & { readonly timeframe: Timeframe } {
    const asked = readAddress(location.search);
    const own = this.stored?.id === asked.dashboardId ? this.stored.definition.timeframe : "1h";
    return { ...asked, timeframe: asked.timeframe ?? own };
  }

  /** Makes definition, connection and charts follow the address. */
  follow(): void {
    const { dashboardId, workflowId } = this.asked();
    if (this.stored?.id !== dashboardId) void this.load(dashboardId);
    else this.followFigures();
    const { define, judge } = commands(workflowId ?? exampleWorkflow);
    setText(byId("command-define"), define);
    setText(byId("command-judge"), judge);
  }

  private followFigures(): void {
    const { timeframe, until } = this.asked();
    this.controls.show();
    const address = socketAddress(this.asked(), timeframe, null, null);
    if (address !== this.address) {
      this.address = address;
      if (until === null) byId("history").setAttribute("aria-busy", "true");
      this.connection.open();
    }
    this.followPast();
    this.schedule();
  }

  private socketUrl(): string {
    const asked = this.asked();
    const back = this.seen === this.address && this.state.ready ? this.state.resume : null;
    const url = new URL(socketAddress(asked, asked.timeframe, back, this.state.definitionVersion), location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    return url.href;
  }

  // ---- The definition

  private async load(id: string): Promise<void> {
    this.loading?.abort();
    const loading = (this.loading = new AbortController());
    try {
      const answer = await this.shell.context.fetchJson<Record<string, unknown>>(`/api/v1/dashboards/${encodeURIComponent(id)}`, { signal: loading.signal });
      this.takeStored(readStored(id, answer));
    } catch (error) {
      if (loading.signal.aborted) return;
      if (error instanceof Refused && error.status === 404) {
        this.shell.complain((this.missed = t("dashboards.gone", { id })));
        if (id !== "main") this.shell.go(addressOf({ ...readAddress(location.search), dashboardId: "main" }), true);
        return;
      }
      this.shell.complain(wordsOf(error)); // figures come all the same; the definition is asked for again with them
      this.followFigures();
    } finally {
      if (this.loading === loading) this.loading = null;
    }
  }

  private takeStored(stored: Stored): void {
    const another = this.stored?.id !== stored.id;
    this.stored = stored;
    if (another) {
      this.state = { ...this.state, charts: new Map(), definitionVersion: null };
      this.address = this.seen = "";
      this.shell.complain(this.missed);
      this.missed = "";
    }
    this.chooser.show(stored.id, stored.definition.name);
    this.take(stored.definition);
    this.followFigures();
  }

  private take(definition: Definition): void {
    setText(byId("dashboard-name"), definition.name);
    this.board.take(definition);
    this.schedule();
  }

  private async choose(dashboardId: string): Promise<void> {
    if (await this.editor.mayLeave()) this.shell.go(addressOf({ dashboardId, timeframe: null, workflowId: null, until: null }));
    else this.chooser.show(this.stored?.id ?? "main");
  }

  private async create(): Promise<void> {
    if (!this.shell.context.mayChange()) return this.shell.complain(t("dashboards.mayNotEdit"));
    if (this.stored && (await this.editor.mayLeave())) await this.chooser.create(this.stored.definition);
  }

  private edit(): void {
    if (!this.shell.context.mayChange()) this.shell.complain(t("dashboards.mayNotEdit"));
    else if (this.stored && !this.editor.open) this.editor.start(this.stored);
  }

  // ---- Figures

  private receive(text: unknown): void {
    const message = parse(text);
    if (!message) return;
    if (!isFigures(message)) return this.shell.hand(message);
    this.state = apply(this.state, message, now());
    if (message.type !== "real_time_update") {
      this.seen = this.address;
      byId("history").setAttribute("aria-busy", "false");
      this.checkVersion();
      if (message.type === "initial_data") this.retryPast();
      void this.shell.askFiring();
    }
    this.schedule();
  }

  /** The definition that the figures are of may be another than the one that is shown. */
  private checkVersion(): void {
    const { definitionVersion: version } = this.state;
    const { dashboardId } = this.asked();
    const unknown = this.stored?.id !== dashboardId;
    if (!unknown && (version === null || version === this.stored!.version)) return;
    if (this.editor.open && version !== null) this.editor.superseded(version);
    else if (!this.loading) void this.load(dashboardId);
  }

  private changed(status: Status): void {
    // Said aloud: lost and back, once each; not the countdown, not the first connection.
    if (status.kind !== this.said && !(this.said === "connecting" && status.kind === "live")) {
      const words = { connecting: "", live: t("connection.back"), reconnecting: t("connection.lost") };
      this.shell.announce(words[status.kind]);
    }
    this.said = status.kind;
    this.schedule();
  }

  stop(): void {
    this.connection.stop();
  }

  /** Loads the figures of a time that is past, when another one is asked for. */
  private followPast(): void {
    const { until, timeframe, workflowId } = this.asked();
    if (until === null || !this.stored) {
      this.past?.abort.abort();
      this.past = null;
      return;
    }
    const { definition, version, id } = this.stored;
    const key = [id, version, until, timeframe, workflowId ?? ""].join("\n");
    if (this.past?.key === key) return;
    this.past?.abort.abort();
    const past = { key, figures: new Map<string, Past>(), abort: new AbortController() };
    this.past = past;
    const wanted = { timeframe, until, workflowIds: workflowId === null ? definition.workflow_ids : [workflowId] };
    byId("history").setAttribute("aria-busy", "true");
    const done = (chart: string, figures: Past): void => {
      past.figures.set(chart, figures);
      this.schedule();
    };
    void loadPast(definition.charts, wanted, this.shell.context.fetchJson, past.abort.signal, done).then(() => {
      if (this.past === past) byId("history").setAttribute("aria-busy", "false");
    });
  }

  /** The server is there: what it could not say of the past while it was away is asked for again. */
  private retryPast(): void {
    if (![...(this.past?.figures.values() ?? [])].some((one) => one.data === null)) return;
    this.past = null;
    this.followPast();
  }

  /** Goes to the judgments behind a point. */
  private drill(filters: Readonly<Record<string, string>>): void {
    const { workflowId } = this.asked();
    const only = this.stored?.definition.workflow_ids ?? [];
    const query = new URLSearchParams(filters);
    const workflows = workflowId === null ? only : [workflowId];
    if (workflows.length) query.set("workflow_id", workflows.join(","));
    void this.editor.mayLeave().then((may) => {
      if (may) this.shell.context.navigate(`#/judgments?${query}`);
    });
  }

  // ---- Rendering

  private schedule(): void {
    if (!document.hidden && this.frame === 0) this.frame = requestAnimationFrame(() => this.render());
  }

  /** Once a second while visible: time passes on the page even when nothing happens. */
  private tick(): void {
    clearInterval(this.ticker);
    if (document.hidden) return;
    this.ticker = setInterval(() => this.schedule(), 1000);
    this.schedule();
  }

  private render(): void {
    this.frame = 0;
    const { state } = this;
    const connected = this.connection.status.kind === "live";
    renderConnection(state, this.connection.status, now());
    if (!state.ready) return;
    this.shell.showTenant(state.tenantId ?? "");
    if (this.shell.panelShown !== "dashboard") return;
    renderFigures(state, now(), connected);
    renderLists(state);
    renderEmpty(state);
    this.controls.showWorkflows(this.stored?.definition.workflow_ids ?? [], state.workflows.map((row) => row.workflow_id));
    this.live.draw(state, now(), connected);
    this.drawCharts();
  }

  private drawCharts(): void {
    const { state, past } = this;
    if (past) {
      this.board.draw({ past: past.figures, timeframe: this.asked().timeframe }, state);
      const first = [...past.figures.values()].find((one) => one.frame.to > 0);
      if (first) this.controls.showSpan(first.frame.from, first.frame.to);
      return;
    }
    this.board.draw({ live: state, now: now() }, state);
    const { from, to } = frameAt(serverNow(state, now()), state.bucketS, timeframeS[state.timeframe]);
    this.controls.showSpan(from, to);
  }

  restyle(): void {
    this.live.restyle();
    this.board.restyle();
  }
}
