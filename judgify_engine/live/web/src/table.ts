// The table of workflows: one row each, in the order given; rows that stay are the same elements, so nothing jumps.
import { isWorkflowId } from "./address";
import { el, setText } from "./dom";
import * as format from "./format";
import { t } from "./i18n";
import type { Workflow } from "./protocol";

interface Row {
  readonly root: HTMLTableRowElement;
  readonly link: HTMLAnchorElement;
  readonly cells: readonly HTMLTableCellElement[];
}

export class WorkflowTable {
  readonly root: HTMLElement;
  private readonly body = el("tbody", { class: "workflow-rows" });
  private readonly empty = el("p", { class: "note", hidden: true }, t("workflows.none"));
  private readonly rows = new Map<string, Row>();
  private shown: readonly Workflow[] | null = null;

  constructor(private readonly href: (workflowId: string) => string) {
    const heads = [t("workflows.workflow"), t("workflows.executions"), t("workflows.success"), t("workflows.meanTime")];
    const head = el("tr", {}, ...heads.map((words) => el("th", { scope: "col" }, words)));
    this.root = el("div", { class: "workflows" }, el("table", {}, el("thead", {}, head), this.body), this.empty);
  }

  render(workflows: readonly Workflow[], ready: boolean): void {
    this.empty.hidden = !ready || workflows.length > 0;
    if (this.shown === workflows) return;
    this.shown = workflows;
    const rows = workflows.map((workflow) => this.row(workflow));
    for (const [id, row] of this.rows) {
      if (rows.includes(row.root)) continue;
      row.root.remove();
      this.rows.delete(id);
    }
    if (rows.some((row, i) => this.body.rows[i] !== row)) this.body.append(...rows);
  }

  private row(workflow: Workflow): HTMLTableRowElement {
    const { workflow_id: id, total_executions: total, successful_executions: good } = workflow;
    let row = this.rows.get(id);
    if (!row) {
      const link = el("a", { title: id, "data-workflow": id }, id);
      const cells = [el("td"), el("td"), el("td")];
      row = { root: el("tr", {}, el("th", { scope: "row" }, link), ...cells), link, cells };
      this.rows.set(id, row);
    }
    if (isWorkflowId(id)) row.link.href = this.href(id);
    setText(row.cells[0]!, format.count(total));
    setText(row.cells[1]!, format.percent(total ? good / total : null));
    setText(row.cells[2]!, format.milliseconds(workflow.mean_execution_time_ms));
    return row.root;
  }
}
