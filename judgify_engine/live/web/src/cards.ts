// One chart of the dashboard as a card: title, legend, plot or table. Draws what it is given; chooses nothing itself.
import { makeChart, type Chart } from "./charts";
import { behind, titleOf, typeName, specOf } from "./specs";
import type { ChartDefinition } from "./definition";
import { el, setText } from "./dom";
import * as format from "./format";
import { t } from "./i18n";
import { plot, type Frame, type Plotted } from "./points";
import type { ChartData, Timeframe, Workflow } from "./protocol";
import { WorkflowTable } from "./table";

export interface CardServices {
  announce(words: string): void;
  /** Goes to the judgments that these filters of GET /api/v1/judgments list. */
  drill(filters: Readonly<Record<string, string>>): void;
  /** The address that shows one workflow only. */
  workflowHref(workflowId: string): string;
}

export class Card {
  readonly root: HTMLElement;
  /** Where the editor puts its buttons. */
  readonly tools: HTMLElement;
  private readonly host: HTMLElement;
  private readonly legend: HTMLElement;
  private readonly note: HTMLElement;
  private readonly table: WorkflowTable | null = null;
  private chart: Chart | null = null;
  private drawnNames = "";
  private drawnFrom: ChartData | null = null;
  private drawnFrame: Frame | null = null;
  private plotted: Plotted | null = null;
  private timeframe: Timeframe = "1h";

  constructor(
    readonly definition: ChartDefinition,
    private readonly services: CardServices,
  ) {
    const headingId = `chart-${definition.id}`;
    this.tools = el("div", { class: "tools" });
    this.legend = el("p", { class: "legend", "aria-hidden": "true" });
    this.note = el("p", { class: "note center", hidden: true });
    const ever = definition.type === "workflows_chart" ? el("small", {}, t("results.since")) : null;
    const title = el("h3", { id: headingId, title: titleOf(definition) }, titleOf(definition), ever);
    this.host = el("div", { class: "plot" });
    this.root = el(
      "section",
      { class: `panel card ${definition.width}`, "aria-labelledby": headingId, "data-chart": definition.id, "data-type": definition.type },
      el("header", {}, title, this.tools),
    );
    if (definition.type === "workflows_chart") {
      this.table = new WorkflowTable(services.workflowHref);
      this.root.append(this.table.root);
    } else {
      this.root.append(el("div", { class: "under" }, this.legend, el("p", { class: "readout", "aria-hidden": "true" })), this.host, this.note);
      for (const [name, value] of Object.entries(this.attributes())) this.host.setAttribute(name, value);
    }
  }

  private attributes(): Record<string, string> {
    const { lines, type, field } = this.definition;
    const limits = lines.map(({ value, label, severity }) => t("chart.threshold", { value: format.measured(value), label, severity: t(`severity.${severity}`) }));
    const kind = type === "tracked_inputs_chart" ? `${typeName(type)} (${field ?? ""})` : typeName(type);
    return {
      role: "application",
      tabindex: "0",
      "aria-roledescription": t("chart.role"),
      "aria-label": [`${titleOf(this.definition)}: ${kind}.`, ...limits, t("chart.keys")].join(" "),
    };
  }

  /** Draws the figures of `frame`; null: there are none (yet), and `why` says so. */
  draw(data: ChartData | null, frame: Frame, timeframe: Timeframe, why = ""): void {
    if (this.table) return;
    const known = data?.type === this.definition.type ? data : null;
    const message = known ? "" : why;
    setText(this.note, message);
    this.note.hidden = !message;
    const old = this.drawnFrame;
    const sameFrame = old !== null && old.from === frame.from && old.to === frame.to;
    if (this.drawnFrom === known && sameFrame && this.chart) return;
    this.drawnFrom = known;
    this.drawnFrame = frame;
    this.timeframe = timeframe;
    const plotted = plot(this.definition.type, known?.points ?? [], frame, this.plotted?.names);
    if (!plotted) return;
    this.plotted = plotted;
    const names = plotted.names.join("\n");
    if (!this.chart || names !== this.drawnNames) this.make(plotted.names);
    this.drawnNames = names;
    this.chart!.draw(plotted.columns, plotted.from, plotted.to, plotted.values);
  }

  drawWorkflows(workflows: readonly Workflow[], ready: boolean): void {
    this.table?.render(workflows, ready);
  }

  private make(names: readonly string[]): void {
    this.chart?.destroy();
    const shown = () => ({ bucketS: this.drawnFrame!.bucketS, timeframe: this.timeframe, edges: this.plotted?.edges ?? [] });
    const spec = specOf(this.definition, names, shown);
    const pick = (index: number, line: number | null): void => {
      this.services.drill(behind(this.definition, this.plotted!, this.drawnFrame!, index, line));
    };
    this.chart = makeChart(this.host, { ...spec, pick }, (words) => this.services.announce(words));
    const drawn = spec.lines.filter((line) => !line.spokenOnly);
    this.legend.replaceChildren(...(drawn.length > 1 ? drawn : []).map((line) => el("span", { class: `key k${line.color}` }, line.label)));
  }

  restyle(): void {
    this.chart?.restyle();
  }

  destroy(): void {
    this.chart?.destroy();
    this.root.remove();
  }
}
