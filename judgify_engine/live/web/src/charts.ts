// One chart: uPlot with this page's look, a readout of the point under the cursor, and keys to move it: left, right, Home,
// End from point to point, up and down from line to line, Enter to the judgments behind it, Escape to leave.
import uPlot from "uplot";
import { drawDot, drawThresholds, readColors, type Threshold } from "./drawing";
import type { Column } from "./series";

export interface Line {
  readonly label: string;
  /** Name of the CSS custom property that holds the colour. */
  readonly color: string;
  readonly fill?: string;
  readonly kind: "line" | "curve" | "bars";
  /** Runs of zeros are not drawn: a line for what seldom happens. */
  readonly quietZero?: boolean;
  /** Said, but not drawn. */
  readonly spokenOnly?: boolean;
  /** Another way to say its values than the chart's. */
  readonly value?: (value: number | null) => string;
}

export interface ChartSpec {
  readonly lines: readonly Line[];
  /** Lines (from 1) between which the ground is coloured. */
  readonly band?: readonly [upper: number, lower: number, fill: string];
  readonly thresholds?: readonly Threshold[];
  /** Top and bottom of the y axis for the values in sight. */
  readonly range: (least: number, greatest: number) => [number, number];
  readonly axis: (value: number) => string;
  readonly value: (value: number | null) => string;
  /** How the x value of a point is said in the readout. */
  readonly when: (x: number) => string;
  /** How x is written at the ticks, which are `step` apart. */
  readonly tick: (x: number, step: number) => string;
  readonly steps: number[];
  /** x is a time, not a value of a distribution. */
  readonly time: boolean;
  /** Charts of the same key show their cursors at the same time. */
  readonly sync: string | null;
  /** Mark the right end of the first line with a dot. */
  readonly dot?: boolean;
  /** A point was chosen, and perhaps one line of it. */
  readonly pick?: (index: number, line: number | null) => void;
}

export interface Chart {
  /** `values`: what each line is said to be at each x, where that is not what is drawn. */
  draw(columns: [number[], ...Column[]], from: number, to: number, values?: readonly Column[]): void;
  restyle(): void;
  destroy(): void;
}

const font = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

/** Gaps for the zeros that have no neighbour above zero; those next to one stay, as the foot of its line. */
function withoutZeroRuns(column: Column): Column {
  return column.map((value, i) => (value === 0 && !column[i - 1] && !column[i + 1] ? null : value));
}

/** Indexes of points with a gap on both sides: a line would not show them. */
const lonely: uPlot.Series.Points.Filter = (u, series, show) => {
  const values = u.data[series]!;
  if (!show) return null;
  const found: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  }
  return found;
};

export function makeChart(host: HTMLElement, spec: ChartSpec, announce: (words: string) => void): Chart {
  const panel = host.closest<HTMLElement>(".panel")!;
  const readout = panel.querySelector<HTMLElement>(".readout")!;
  const drawnLines = spec.lines.filter((line) => !line.spokenOnly);
  let colors = readColors();
  let columns: [number[], ...Column[]] = [[], ...drawnLines.map(() => [])];
  let values: readonly Column[] = [];
  let window: [number, number] | null = null;
  /** The line that up and down chose; null: all. */
  let line: number | null = null;
  const color = (name: string) => (): string => colors(name);

  const plot = new uPlot(options(), columns as unknown as uPlot.AlignedData, host);

  function options(): uPlot.Options {
    return {
      width: Math.max(host.clientWidth, 100),
      height: Math.max(host.clientHeight, 60),
      padding: [10, 8, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: false, y: false },
        ...(spec.sync ? { sync: { key: spec.sync } } : {}),
        points: { size: 8, width: 2, fill: color("--surface") },
      },
      scales: {
        x: { time: spec.time, range: () => window ?? [0, 1] },
        y: { range: (_, least, greatest) => withThresholds(spec.range(least ?? 0, greatest ?? 0)) },
      },
      axes: [xAxis(), yAxis()],
      series: [{}, ...drawnLines.map(seriesOf)],
      ...(spec.band ? { bands: [{ series: [spec.band[0], spec.band[1]], fill: color(spec.band[2]) }] } : {}),
      hooks: {
        setCursor: [show],
        draw: [(u) => drawThresholds(u, spec.thresholds ?? [], colors, spec.axis), (u) => spec.dot && drawDot(u, colors, drawnLines[0]!.color)],
      },
    };
  }

  function withThresholds([bottom, top]: [number, number]): [number, number] {
    const at = (spec.thresholds ?? []).map((one) => one.value);
    const highest = Math.max(...at, top);
    return [Math.min(...at, bottom), highest > top ? highest + (highest - bottom) * 0.08 : top];
  }

  function xAxis(): uPlot.Axis {
    return {
      stroke: color("--muted"),
      font,
      size: 30,
      gap: 9,
      space: 68,
      incrs: spec.steps,
      grid: { show: false },
      ticks: { show: false },
      // A label that would be cut at the right edge is left out, and so are all before the first data.
      values: (_u, splits, _axis, _space, step) => {
        const [from, to] = window ?? [0, -Infinity];
        const end = to - ((to - from) * 22) / Math.max(host.clientWidth - 68, 100);
        return splits.map((at) => (at > end ? "" : spec.tick(at, step)));
      },
    };
  }

  function yAxis(): uPlot.Axis {
    return {
      stroke: color("--muted"),
      font,
      size: 60,
      gap: 8,
      space: 34,
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
      values: (_, splits) => splits.map((value) => spec.axis(value)),
    };
  }

  function seriesOf(one: Line): uPlot.Series {
    const { bars, spline, linear } = uPlot.paths;
    return {
      label: one.label,
      stroke: color(one.color),
      width: one.kind === "bars" ? 0 : 2,
      ...(one.fill ? { fill: color(one.fill) } : {}),
      paths: one.kind === "bars" ? bars!({ size: [0.7, 44], radius: [0.12, 0] }) : one.kind === "curve" ? spline!() : linear!(),
      points: one.kind === "bars" ? { show: false } : { show: true, size: 5, fill: color(one.color), filter: lonely },
    };
  }

  const said = (i: number, index: number): string => {
    const one = spec.lines[i]!;
    return `${one.label} ${(one.value ?? spec.value)(values[i]?.[index] ?? null)}`;
  };

  function words(index: number): string {
    const all = spec.lines.map((_, i) => i).filter((i) => line === null || i === line);
    return `${spec.when(columns[0][index]!)}: ${all.map((i) => said(i, index)).join(", ")}`;
  }

  function show(u: uPlot): void {
    const index = u.cursor.idx;
    const known = index != null && u.data[0][index] !== undefined;
    readout.textContent = known ? words(index) : "";
    panel.classList.toggle("reading", known);
  }

  function leave(): void {
    line = null;
    plot.setCursor({ left: -10, top: -10 });
  }

  function go(index: number): void {
    plot.setCursor({ left: Math.max(0, plot.valToPos(plot.data[0][index]!, "x")), top: 10 });
    announce(words(index));
  }

  function onKey(event: KeyboardEvent): void {
    const last = plot.data[0].length - 1;
    if (last < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const known = plot.cursor.idx;
    const at = known ?? last + 1;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape" && known != null) leave();
    else if (event.key === "Enter" && known != null) spec.pick?.(known, line);
    else if ((event.key === "ArrowUp" || event.key === "ArrowDown") && spec.lines.length > 1) {
      const n = spec.lines.length + 1; // all lines, then each
      const turn = event.key === "ArrowDown" ? 1 : n - 1;
      const chosen = ((line === null ? 0 : line + 1) + turn) % n;
      line = chosen === 0 ? null : chosen - 1;
      go(known ?? last);
    } else if (next !== undefined) go(Math.max(0, Math.min(last, next)));
    else return;
    event.preventDefault();
  }

  /** The part of a stack, or the bar, that is under the pointer; null: none in particular. */
  function lineUnder(index: number, top: number): number | null {
    if (drawnLines.some((one) => one.kind !== "bars") || drawnLines.length < 2) return null;
    const y = plot.posToVal(top, "y");
    for (let i = drawnLines.length - 1; i > 0; i--) if (y <= (columns[i + 1]![index] ?? 0)) return i;
    return spec.lines.length > 2 && y <= (columns[1]![index] ?? 0) ? 0 : null;
  }

  let touched: number | null = null;
  function onClick(event: PointerEvent | MouseEvent): void {
    const index = plot.cursor.idx;
    if (index == null || plot.data[0][index] === undefined) return;
    // A finger has no hover: its first tap reads a point, the second goes to what is behind it.
    const byTouch = "pointerType" in event && event.pointerType === "touch";
    if (byTouch && touched !== index) touched = index;
    else spec.pick?.(index, lineUnder(index, plot.cursor.top ?? 0));
  }

  host.addEventListener("keydown", onKey);
  host.addEventListener("blur", leave);
  if (spec.pick) plot.over.addEventListener("click", onClick);
  host.classList.toggle("pickable", spec.pick !== undefined);
  const sizes = new ResizeObserver(() => {
    if (host.clientWidth > 0) plot.setSize({ width: host.clientWidth, height: host.clientHeight });
  });
  sizes.observe(host);

  return {
    draw(next, from, to, told = next.slice(1) as Column[]) {
      window = [from, to];
      columns = next;
      values = told;
      const shown = next.map((column, i) => (drawnLines[i - 1]?.quietZero ? withoutZeroRuns(column) : column));
      plot.setData(shown as unknown as uPlot.AlignedData);
    },
    restyle() {
      colors = readColors();
      plot.redraw(true); // bars keep their colours with their paths
    },
    destroy() {
      sizes.disconnect();
      host.removeEventListener("keydown", onKey);
      host.removeEventListener("blur", leave);
      plot.destroy();
    },
  };
}
