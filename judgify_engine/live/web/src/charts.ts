// One chart: uPlot with this page's look, a readout of the point under the cursor, and arrow keys to move it.
import uPlot from "uplot";
import type { Column } from "./series";

export interface Line {
  readonly label: string;
  /** Name of the CSS custom property that holds the colour. */
  readonly color: string;
  readonly fill?: string;
  readonly kind: "line" | "curve" | "bars";
  /** Runs of zeros are not drawn: a line for what seldom happens. */
  readonly quietZero?: boolean;
}

export interface ChartSpec {
  readonly lines: readonly Line[];
  /** Top and bottom of the y axis for the values in sight. */
  readonly range: (least: number, greatest: number) => [number, number];
  readonly axis: (value: number) => string;
  readonly value: (value: number | null) => string;
  /** How the x value of a point is said in the readout. */
  readonly when: (time: number) => string;
  /** How x is written at the ticks, which are `step` seconds apart. */
  readonly tick: (time: number, step: number) => string;
  readonly steps: number[];
  /** Charts of the same key show their cursors at the same time. */
  readonly sync: string;
  /** Mark the right end of the first line with a dot. */
  readonly dot?: boolean;
}

export interface Chart {
  draw(data: [number[], ...Column[]], from: number, to: number): void;
  restyle(): void;
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
  let colors = readColors(spec);
  let drawn: [number[], ...Column[]] = [[], ...spec.lines.map(() => [])];
  const nothing: [number, number] = [0, 1];
  let window = nothing;
  const color = (name: string) => (): string => colors.get(name) ?? "";

  const plot = new uPlot(
    {
      width: Math.max(host.clientWidth, 100),
      height: host.clientHeight,
      padding: [10, 8, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: false, y: false },
        sync: { key: spec.sync },
        points: { size: 8, width: 2, fill: color("--surface") },
      },
      scales: {
        x: { time: true, range: () => window },
        y: { range: (_, least, greatest) => spec.range(least ?? 0, greatest ?? 0) },
      },
      axes: [
        {
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
            const [from, to] = window;
            const end = window === nothing ? -Infinity : to - ((to - from) * 22) / Math.max(host.clientWidth - 68, 100);
            return splits.map((at) => (at > end ? "" : spec.tick(at, step)));
          },
        },
        {
          stroke: color("--muted"),
          font,
          size: 60,
          gap: 8,
          space: 34,
          grid: { stroke: color("--line"), width: 1 },
          ticks: { show: false },
          values: (_, splits) => splits.map((value) => spec.axis(value)),
        },
      ],
      series: [
        {},
        ...spec.lines.map((line): uPlot.Series => ({
          label: line.label,
          stroke: color(line.color),
          width: line.kind === "bars" ? 0 : 2,
          ...(line.fill ? { fill: color(line.fill) } : {}),
          paths:
            line.kind === "bars"
              ? uPlot.paths.bars!({ size: [0.7, 44], radius: [0.12, 0] })
              : line.kind === "curve"
                ? uPlot.paths.spline!()
                : uPlot.paths.linear!(),
          points: line.kind === "bars" ? { show: false } : { show: true, size: 5, fill: color(line.color), filter: lonely },
        })),
      ],
      hooks: {
        setCursor: [(u) => show(u)],
        draw: spec.dot ? [(u) => drawDot(u, color("--surface")(), color(spec.lines[0]!.color)())] : [],
      },
    },
    drawn as unknown as uPlot.AlignedData,
    host,
  );

  function words(index: number): string {
    const values = spec.lines.map((line, i) => `${line.label} ${spec.value(drawn[i + 1]![index] as number | null)}`);
    return `${spec.when(drawn[0][index]!)}: ${values.join(", ")}`;
  }

  function show(u: uPlot): void {
    const index = u.cursor.idx;
    const known = index != null && u.data[0][index] !== undefined;
    readout.textContent = known ? words(index) : "";
    panel.classList.toggle("reading", known);
  }

  host.addEventListener("keydown", (event) => {
    const last = plot.data[0].length - 1;
    const at = plot.cursor.idx ?? last + 1;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") plot.setCursor({ left: -10, top: -10 });
    if (next === undefined || last < 0) return;
    event.preventDefault();
    const index = Math.max(0, Math.min(last, next));
    plot.setCursor({ left: Math.max(0, plot.valToPos(plot.data[0][index]!, "x")), top: 10 });
    announce(words(index));
  });
  host.addEventListener("blur", () => plot.setCursor({ left: -10, top: -10 }));

  new ResizeObserver(() => {
    if (host.clientWidth > 0) plot.setSize({ width: host.clientWidth, height: host.clientHeight });
  }).observe(host);

  return {
    draw(data, from, to) {
      window = [from, to];
      drawn = data;
      const columns = data.map((column, i) => (spec.lines[i - 1]?.quietZero ? withoutZeroRuns(column) : column));
      plot.setData(columns as unknown as uPlot.AlignedData);
    },
    restyle() {
      colors = readColors(spec);
      plot.redraw(false);
    },
  };
}

function readColors(spec: ChartSpec): Map<string, string> {
  const style = getComputedStyle(document.documentElement);
  const names = ["--muted", "--line", "--surface", ...spec.lines.flatMap((line) => [line.color, line.fill ?? ""])];
  return new Map(names.filter(Boolean).map((name) => [name, style.getPropertyValue(name).trim()]));
}

function drawDot(u: uPlot, around: string, color: string): void {
  const last = u.data[0].length - 1;
  const value = u.data[1]?.[last];
  if (value == null) return;
  const { ctx } = u;
  const unit = devicePixelRatio;
  const x = u.valToPos(u.data[0][last]!, "x", true) - 3 * unit;
  const y = u.valToPos(value, "y", true);
  ctx.save();
  ctx.beginPath();
  ctx.arc(x, y, 4.5 * unit, 0, 2 * Math.PI);
  ctx.fillStyle = color;
  ctx.strokeStyle = around;
  ctx.lineWidth = 2 * unit;
  ctx.fill();
  ctx.stroke();
  ctx.restore();
}
