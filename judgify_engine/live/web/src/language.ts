// Which language the pages speak: the one chosen here, else the first that the browser prefers and they know. Apart from
// the words, since boot.ts must know it before anything is painted.

export const storageKey = "judgify.language";

/** The first of the languages (`ko-KR`, `en`) which the pages speak; English otherwise. */
export function pick(preferred: readonly string[]): "en" | "ko" {
  for (const tag of preferred) {
    const name = tag.toLowerCase().split("-")[0];
    if (name === "en" || name === "ko") return name;
  }
  return "en";
}

function chosen(): string {
  try {
    return globalThis.localStorage?.getItem(storageKey) ?? "";
  } catch {
    return ""; // storage is switched off: follow the browser
  }
}

export const preferredLanguage = (): "en" | "ko" => pick([chosen(), ...(globalThis.navigator?.languages ?? [])]);
