// The form of one chart: what it shows, its title and width, the field of a tracked input, threshold lines.
import { chartTypes, maxLines, severities, takesLines, type ChartDefinition, type Severity, type ThresholdLine } from "./definition";
import { ask, field, select } from "./dialog";
import { button, el } from "./dom";
import { t } from "./i18n";
import type { ChartType } from "./protocol";
import { typeName } from "./specs";

type Edited = Omit<ChartDefinition, "id">;

/** Values of success charts are shares; people think of them in percent. */
const factor = (type: ChartType): number => (type === "success_rate_chart" ? 100 : 1);

function unitOf(type: ChartType): string {
  if (type === "response_time_chart") return t("form.unitMs");
  if (type === "success_rate_chart") return t("form.unitPercent");
  return type === "tracked_inputs_chart" ? t("form.unitField") : t("form.unitCount");
}

interface LineRow {
  readonly root: HTMLElement;
  read(type: ChartType): ThresholdLine | null;
}

/** Asks for a chart. `fields`: of inputs that are tracked. null: given up. */
export async function askChart(chart: ChartDefinition | null, fields: readonly string[]): Promise<Edited | null> {
  const type = select(chartTypes.map((one) => [one, typeName(one)]), chart?.type ?? "execution_count_chart");
  const title = el("input", { type: "text", maxlength: 200, value: chart?.title ?? "" });
  const width = select([["half", t("form.half")], ["full", t("form.full")]], chart?.width ?? "half");
  const known = [...new Set([...(chart?.field ? [chart.field] : []), ...fields])];
  const tracked = select(known.map((one) => [one, one]), chart?.field ?? known[0] ?? "");
  const trackedField = field(t("form.field"), tracked, known.length ? t("form.fieldHelp") : t("form.noFields"));
  const unit = el("small");
  const rows: LineRow[] = [];
  const list = el("ul", { class: "lines" });
  const more = button(t("form.addLine"), () => addLine({ value: NaN, label: "", severity: "warning" }, true), "small");
  const lines = el("fieldset", { class: "field" }, el("legend", {}, t("form.lines")), unit, list, more);
  const typeNow = (): ChartType => type.value as ChartType;

  function addLine(line: ThresholdLine, focus: boolean): void {
    const row = lineRow(line, typeNow(), rows.length + 1, () => {
      rows.splice(rows.indexOf(row), 1);
      row.root.remove();
      more.disabled = false;
      more.focus();
    });
    rows.push(row);
    list.append(row.root);
    more.disabled = rows.length >= maxLines;
    if (focus) row.root.querySelector("input")!.focus();
  }

  function follow(): void {
    trackedField.hidden = typeNow() !== "tracked_inputs_chart";
    lines.hidden = !takesLines(typeNow());
    unit.textContent = unitOf(typeNow());
  }
  for (const line of chart?.lines ?? []) addLine(line, false);
  type.addEventListener("change", follow);
  follow();

  const read = (): Edited => ({
    type: typeNow(),
    title: title.value.trim() || null,
    width: width.value as Edited["width"],
    field: typeNow() === "tracked_inputs_chart" ? tracked.value : null,
    lines: takesLines(typeNow()) ? rows.map((row) => row.read(typeNow())).filter((line) => line !== null) : [],
  });
  const missing = (): string | null => {
    if (typeNow() === "tracked_inputs_chart" && !tracked.value) return t("form.needsField");
    const unread = takesLines(typeNow()) ? rows.findIndex((row) => row.read(typeNow()) === null) : -1;
    return unread < 0 ? null : t("form.needsValue", { n: unread + 1 });
  };
  const content = [field(t("form.type"), type), trackedField, field(t("form.title"), title, t("form.titleHelp")), field(t("form.width"), width), lines];
  const done = await ask({ title: t("form.chartTitle"), content, choices: [{ words: t("form.done"), value: true }], check: missing });
  return done ? read() : null;
}

function lineRow(line: ThresholdLine, type: ChartType, n: number, removed: () => void): LineRow {
  const shown = Number.isFinite(line.value) ? String(+(line.value * factor(type)).toPrecision(12)) : "";
  const value = el("input", { type: "number", step: "any", value: shown, "aria-label": t("form.lineValue"), placeholder: t("form.lineValue") });
  const label = el("input", { type: "text", maxlength: 100, value: line.label, "aria-label": t("form.lineLabel"), placeholder: t("form.lineLabel") });
  const severity = select<Severity>(severities.map((one) => [one, t(`severity.${one}`)]), line.severity);
  severity.setAttribute("aria-label", t("form.lineSeverity"));
  const remove = button("×", removed, "quiet icon");
  remove.setAttribute("aria-label", t("form.removeLine", { n }));
  return {
    root: el("li", {}, value, label, severity, remove),
    read(now) {
      if (!value.value || !Number.isFinite(value.valueAsNumber)) return null;
      const number = +(value.valueAsNumber / factor(now)).toPrecision(12);
      return { value: number, label: label.value.trim(), severity: severity.value as Severity };
    },
  };
}
