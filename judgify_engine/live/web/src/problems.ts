// What the server refused, in the person's language. Its `detail` is in English: there it says most, elsewhere it follows
// where it tells what is wrong with what was sent.
import { dictionaries, language, translate, type Key, type Language } from "./i18n";

/** As RFC 9457 has it; some codes carry more members. */
export type Problem = Readonly<Record<string, unknown>>;

const keys = Object.keys(dictionaries.en) as Key[];
/** Of these the sender can mend something, and only `detail` says exactly what. */
const particular = new Set([400, 409, 422]);

/** The words for the answer `status` with this body (empty: it was no JSON). Those of a code that is not known are the server's. */
export function problemWords(status: number, problem: Problem, to: Language = language): string {
  const detail = [problem.detail, problem.title].find((text): text is string => typeof text === "string" && text !== "");
  if (to === "en" && detail !== undefined) return detail;
  const values = valuesOf(problem);
  const key = keyOf(String(problem.code ?? ""), values);
  if (key === null) return detail ?? translate(to, "page.answered", { status });
  const words = translate(to, key, values);
  return detail !== undefined && particular.has(status) ? `${words} (${detail})` : words;
}

/** Of the keys of a code whose members are all there, the one with the most. */
function keyOf(code: string, values: Readonly<Record<string, unknown>>): Key | null {
  let found: Key | null = null;
  for (const key of keys) {
    const [kind, its, ...members] = key.split(".");
    const fits = kind === "problem" && its === code && members.every((member) => Object.hasOwn(values, member));
    if (fits && (found === null || members.length > found.split(".").length - 2)) found = key;
  }
  return found;
}

function valuesOf(problem: Problem): Record<string, string | number> {
  const found: Record<string, string | number> = {};
  for (const [name, value] of Object.entries(problem)) {
    if (typeof value === "number" || (typeof value === "string" && value !== "")) found[name] = value;
  }
  return found;
}
