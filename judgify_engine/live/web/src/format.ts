// Figures and times as a person reads them, in the page's language. Numbers keep their exact value elsewhere (data-value);
// times are in the viewer's own time zone.
import { locale, t } from "./i18n";

const numbers = (options: Intl.NumberFormatOptions): Intl.NumberFormat => new Intl.NumberFormat(locale, options);
const whole = numbers({ maximumFractionDigits: 0 });
const one = numbers({ minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = numbers({ minimumFractionDigits: 2, maximumFractionDigits: 2 });
const three = numbers({ minimumFractionDigits: 3, maximumFractionDigits: 3 });
const upToTwo = numbers({ maximumFractionDigits: 2 });
const short = numbers({ notation: "compact", maximumSignificantDigits: 3 });
const significant = numbers({ maximumSignificantDigits: 6 });

export const none = "–";

export const count = (n: number): string => whole.format(n);
export const countOrNone = (n: number | null): string => (n === null ? none : whole.format(n));
export const compact = (n: number): string => (Math.abs(n) < 10 ? upToTwo.format(n) : short.format(n));
/** A measured value, of any size. */
export const measured = (value: number | null): string => (value === null ? none : significant.format(value));
export const confidence = (value: number | null): string => (value === null ? none : three.format(value));
export const bin = (value: number): string => three.format(value);

export function rate(perS: number): string {
  return perS >= 1000 ? whole.format(perS) : one.format(perS);
}
export const perSecond = (perS: number | null): string => (perS === null ? none : t("unit.perSecond", { n: rate(perS) }));

/** A share 0..1 in percent. Cut, not rounded: 99.996 % is not shown as 100 %. */
export function percent(share: number | null): string {
  if (share === null) return none;
  return share >= 1 ? "100 %" : `${two.format(Math.floor(share * 1e4 + 1e-6) / 100)} %`;
}
export const axisPercent = (share: number): string => `${upToTwo.format(share * 100)} %`;

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
  return ms >= 1000 ? `${upToTwo.format(ms / 1000)} s` : `${upToTwo.format(ms)} ms`;
}

export function age(seconds: number): string {
  if (seconds < 1.5) return t("age.now");
  if (seconds < 60) return t("age.seconds", { n: Math.round(seconds) });
  if (seconds < 3600) return t("age.minutes", { n: Math.floor(seconds / 60) });
  return t("age.hours", { n: Math.floor(seconds / 3600) });
}

const times = (options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat => new Intl.DateTimeFormat(locale, options);
const clock = times({ hour: "numeric", minute: "2-digit" });
const clockSeconds = times({ hour: "numeric", minute: "2-digit", second: "2-digit" });
const day = times({ weekday: "short", day: "numeric" });
const dayClock = times({ weekday: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
const fullDay = times({ year: "numeric", month: "short", day: "numeric" });
const fullClock = times({ year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });

/** A moment of the past: its clock time today, with its day before that. */
export const moment = (unixS: number, nowS: number): string =>
  nowS - unixS < 43_200 ? clockSeconds.format(unixS * 1000) : dayClock.format(unixS * 1000);

export const time = (unixS: number): string => clock.format(unixS * 1000);
export const timeSeconds = (unixS: number): string => clockSeconds.format(unixS * 1000);
export const date = (unixS: number): string => day.format(unixS * 1000);
export const dateTime = (unixS: number): string => dayClock.format(unixS * 1000);
export const longDate = (unixS: number): string => fullDay.format(unixS * 1000);
export const longDateTime = (unixS: number): string => fullClock.format(unixS * 1000);
