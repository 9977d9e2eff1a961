// What is drawn on top of a chart, and the colours that it is drawn with.
import type uPlot from "uplot";
import type { Severity } from "./definition";

export interface Threshold {
  readonly value: number;
  readonly label: string;
  readonly severity: Severity;
}

/** Value of a CSS custom property, as it is now. Remembered: asking the style costs more than drawing. */
export function readColors(): (name: string) => string {
  const style = getComputedStyle(document.documentElement);
  const known = new Map<string, string>();
  return (name) => {
    let value = known.get(name);
    if (value === undefined) known.set(name, (value = style.getPropertyValue(name).trim()));
    return value;
  };
}

export const severityColor: Readonly<Record<Severity, string>> = { info: "--focus", warning: "--second", critical: "--bad" };
/** Not by colour alone: each severity has its own dashes. */
const dashes: Readonly<Record<Severity, number[]>> = { info: [2, 4], warning: [8, 4], critical: [] };

/** Horizontal lines, each with its words above its right end. */
export function drawThresholds(
  u: uPlot,
  thresholds: readonly Threshold[],
  colors: (name: string) => string,
  axis: (value: number) => string,
): void {
  if (!thresholds.length) return;
  const { ctx } = u;
  const { left, top, width } = u.bbox;
  const unit = devicePixelRatio;
  ctx.save();
  ctx.font = `${12 * unit}px system-ui, sans-serif`;
  ctx.textAlign = "right";
  ctx.textBaseline = "bottom";
  ctx.lineWidth = 1.5 * unit;
  for (const { value, label, severity } of thresholds) {
    const y = u.valToPos(value, "y", true);
    ctx.strokeStyle = ctx.fillStyle = colors(severityColor[severity]);
    ctx.setLineDash(dashes[severity].map((n) => n * unit));
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    const words = label || axis(value);
    // Its ground keeps the words readable over bars and lines; below the line where there is no room above.
    const wide = ctx.measureText(words).width;
    const above = y - 16 * unit >= top;
    const foot = above ? y - 2 * unit : y + 16 * unit;
    ctx.fillStyle = colors("--surface");
    ctx.globalAlpha = 0.85;
    ctx.fillRect(left + width - wide - 6 * unit, foot - 14 * unit, wide + 6 * unit, 14 * unit);
    ctx.globalAlpha = 1;
    ctx.fillStyle = colors(severityColor[severity]);
    ctx.fillText(words, left + width - 3 * unit, foot, width - 6 * unit);
  }
  ctx.restore();
}

/** A dot at the right end of the first line. */
export function drawDot(u: uPlot, colors: (name: string) => string, color: string): void {
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
  ctx.fillStyle = colors(color);
  ctx.strokeStyle = colors("--surface");
  ctx.lineWidth = 2 * unit;
  ctx.fill();
  ctx.stroke();
  ctx.restore();
}
