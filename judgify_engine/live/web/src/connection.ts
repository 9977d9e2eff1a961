// Keeps one WebSocket to the dashboard open: opens it, notices when it died, comes back. Owns no figures.
//
// connecting    first attempt, or a new address
// live          a message has come and the next is not overdue
// reconnecting  lost; `retryAt` says when the next attempt starts, null while one is under way
//
// A server that restarts must not be met by all its viewers at once, hence the jitter; a person who comes back to the
// page must not wait, hence the attempt as soon as the network or the tab is back.
import { t } from "./i18n";

export type Status =
  | { readonly kind: "connecting" }
  | { readonly kind: "live" }
  | { readonly kind: "reconnecting"; readonly retryAt: number | null; readonly reason: string };

export interface Handlers {
  message(text: unknown): void;
  status(status: Status): void;
  /** Attempts failed before the upgrade, or the token was revoked: is this browser still signed in? */
  refused(): void;
}

const firstMs = 500;
const longestMs = 10_000;
/** A full message comes every 30 s; without any for this long the connection is dead, whatever the socket says. */
const silenceMs = 45_000;
const openingMs = 10_000;
/** A connection that held this long was a good one: the next loss starts again with a short wait. */
const provenMs = 5_000;

/** How long to wait before attempt `n` (0 is the first after a loss), with `chance` in 0..1. Between 0.5 s and 10 s. */
export function backoffMs(n: number, chance: number): number {
  const ceiling = Math.min(longestMs, 2 * firstMs * 2 ** n);
  return Math.max(firstMs, ceiling * (0.5 + 0.5 * chance));
}

export class Connection {
  private socket: WebSocket | null = null;
  private timer = 0;
  private watchdog = 0;
  private failures = 0;
  private neverOpened = 0;
  private liveSince = 0;
  private opened = false;
  private lost = false;
  private stopped = true;
  private current: Status = { kind: "connecting" };

  constructor(
    private readonly url: () => string,
    private readonly handlers: Handlers,
  ) {
    addEventListener("online", () => this.retryNow());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.retryNow();
    });
    // An open socket keeps a page out of the back/forward cache.
    addEventListener("pagehide", () => this.stop());
    addEventListener("pageshow", (event) => {
      if (event.persisted) this.open();
    });
  }

  get status(): Status {
    return this.current;
  }

  /** Opens, or opens anew when the address has changed. */
  open(): void {
    this.stop();
    this.stopped = false;
    this.failures = this.neverOpened = 0;
    this.lost = false;
    this.attempt();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.drop();
  }

  /** Ends a wait; does nothing while live or trying. */
  retryNow(): void {
    if (this.stopped || this.current.kind !== "reconnecting" || this.current.retryAt === null) return;
    clearTimeout(this.timer);
    this.attempt();
  }

  private attempt(): void {
    this.set(this.lost ? { kind: "reconnecting", retryAt: null, reason: "" } : { kind: "connecting" });
    const socket = new WebSocket(this.url(), ["judgify.v1"]);
    this.socket = socket;
    this.opened = false;
    this.expectWithin(openingMs, t("reason.noAnswer"));
    socket.onopen = () => {
      this.opened = true;
      this.neverOpened = 0;
    };
    socket.onmessage = (event) => {
      this.expectWithin(silenceMs, t("reason.silent"));
      if (this.current.kind !== "live") {
        this.liveSince = Date.now();
        this.lost = true;
        this.handlers.message(event.data);
        this.set({ kind: "live" });
      } else {
        this.handlers.message(event.data);
      }
    };
    socket.onclose = (event) => {
      this.lose(reasonOf(event.code, this.opened), event.code);
    };
  }

  private lose(reason: string, code: number): void {
    this.drop();
    if (this.stopped) return;
    if (!this.opened) this.neverOpened += 1;
    this.lost = true;
    if (this.current.kind === "live" && Date.now() - this.liveSince > provenMs) this.failures = 0;
    const n = code === 1013 ? Infinity : this.failures; // 1013: the server is full, so come back late
    this.failures += 1;
    const wait = backoffMs(n, Math.random());
    this.timer = setTimeout(() => this.attempt(), wait);
    this.set({ kind: "reconnecting", retryAt: Date.now() + wait, reason });
    if (code === 1008 || this.neverOpened >= 2) this.handlers.refused();
  }

  private expectWithin(ms: number, otherwise: string): void {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.lose(otherwise, 0), ms);
  }

  private drop(): void {
    clearTimeout(this.watchdog);
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  private set(status: Status): void {
    this.current = status;
    this.handlers.status(status);
  }
}

function reasonOf(code: number, opened: boolean): string {
  if (code === 1001) return t("reason.stopped");
  if (code === 1008) return t("reason.revoked");
  if (code === 1013) return t("reason.full");
  return opened ? t("reason.lost") : t("reason.unreachable");
}
