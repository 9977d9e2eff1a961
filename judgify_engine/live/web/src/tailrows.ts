// What the live tail holds: the newest rows, what came while it was paused, and how many were never shown. Pure.
import type { Judgment } from "./judgments";

export interface TailJudgment extends Judgment {
  readonly result: string;
}

export interface TailMessage {
  readonly type: "tail";
  readonly position: string;
  readonly skipped: number;
  readonly gap: boolean;
  readonly judgments: readonly TailJudgment[];
}

/** A judgment, or a remark between two of them. */
export type Line =
  | { readonly kind: "judgment"; readonly judgment: TailJudgment }
  | { readonly kind: "skipped"; readonly count: number }
  | { readonly kind: "gap" }
  | { readonly kind: "lost" };

export const mostLines = 300;

export function parseTail(text: unknown): TailMessage | null {
  if (typeof text !== "string") return null;
  try {
    const value = JSON.parse(text) as Partial<TailMessage> | null;
    return value?.type === "tail" && Array.isArray(value.judgments) ? (value as TailMessage) : null;
  } catch {
    return null;
  }
}

export class TailRows {
  /** Judgments that fitted since the tail began, shown or not. */
  seen = 0;
  /** Of them, since it was paused. */
  meanwhile = 0;
  paused = false;
  private waiting: Line[] = [];

  /** Lines to show now, oldest first. */
  take(message: TailMessage): Line[] {
    const lines: Line[] = [];
    if (message.gap) lines.push({ kind: "gap" });
    if (message.skipped) lines.push({ kind: "skipped", count: message.skipped });
    for (const judgment of message.judgments) lines.push({ kind: "judgment", judgment });
    const count = message.judgments.length + message.skipped;
    this.seen += count;
    return this.show(lines, count);
  }

  /** The connection was lost, or is another one. */
  lose(): Line[] {
    return this.show([{ kind: "lost" }], 0);
  }

  pause(): void {
    this.paused = true;
    this.meanwhile = 0;
  }

  /** What came meanwhile, as far as it is kept, oldest first. */
  resume(): Line[] {
    const lines = this.waiting;
    this.paused = false;
    this.waiting = [];
    this.meanwhile = 0;
    return lines;
  }

  private show(lines: Line[], count: number): Line[] {
    if (!this.paused) return lines;
    this.meanwhile += count;
    this.waiting.push(...lines);
    if (this.waiting.length > mostLines) {
      const dropped = this.waiting.splice(0, this.waiting.length - mostLines + 1);
      let lost = 0;
      for (const line of dropped) lost += line.kind === "skipped" ? line.count : line.kind === "judgment" ? 1 : 0;
      this.waiting.unshift({ kind: "skipped", count: lost });
    }
    return [];
  }
}
