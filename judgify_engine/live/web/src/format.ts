// Figures and times as a person reads them. Numbers keep their exact value elsewhere (data-value); times are in the
// viewer's own time zone.
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });

export const none = "–";

export const count = (n: number): string => whole.format(n);
export const compact = (n: number): string => (Math.abs(n) < 10 ? `${+n.toFixed(2)}` : short.format(n));

export function rate(perS: number): string {
  return perS >= 1000 ? whole.format(perS) : one.format(perS);
}

/** A share 0..1 in percent. Cut, not rounded: 99.996 % is not shown as 100 %. */
export function percent(share: number | null): string {
  if (share === null) return none;
  return share >= 1 ? "100 %" : `${two.format(Math.floor(share * 1e4 + 1e-6) / 100)} %`;
}

export function share(part: number, all: number): string {
  return all > 0 ? `${one.format(Math.floor((part / all) * 1e3 + 1e-6) / 10)} %` : none;
}

export function milliseconds(ms: number | null): string {
  if (ms === null) return none;
  if (ms < 10) return `${two.format(ms)} ms`;
  if (ms < 100) return `${one.format(ms)} ms`;
  if (ms < 1000) return `${whole.format(ms)} ms`;
  return `${two.format(ms / 1000)} s`;
}

/** Milliseconds on an axis: as short as it can be said. */
export function axisMilliseconds(ms: number): string {
  return ms >= 1000 ? `${+(ms / 1000).toFixed(2)} s` : `${+ms.toFixed(2)} ms`;
}

export function age(seconds: number): string {
  if (seconds < 1.5) return "just now";
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric" });
const dayClock = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", hour: "numeric", minute: "2-digit" });

/** A moment of the past: its clock time today, with its day before that. */
export const moment = (unixS: number, nowS: number): string =>
  nowS - unixS < 43_200 ? clockSeconds.format(unixS * 1000) : dayClock.format(unixS * 1000);

export const time = (unixS: number): string => clock.format(unixS * 1000);
export const timeSeconds = (unixS: number): string => clockSeconds.format(unixS * 1000);
export const date = (unixS: number): string => day.format(unixS * 1000);
export const dateTime = (unixS: number): string => dayClock.format(unixS * 1000);
