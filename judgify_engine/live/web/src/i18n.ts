// Every word of the pages, in English and Korean: `t("key", {name: value})`. A key that one language lacks, and a
// placeholder that a caller forgets, fail the type check. The language is the browser's, unless the person chose the
// other one here; it does not change while a page is open (choosing loads the page again), so texts can be made once.
import * as editor from "./i18n/editor";
import * as login from "./i18n/login";
import * as page from "./i18n/page";
import * as problems from "./i18n/problems";
import * as records from "./i18n/records";
import { preferredLanguage, storageKey } from "./language";

const en = { ...login.en, ...page.en, ...editor.en, ...records.en, ...problems.en } as const;
const ko: Record<Key, string> = { ...login.ko, ...page.ko, ...editor.ko, ...records.ko, ...problems.ko };
export const dictionaries = { en, ko } as const;

export type Key = keyof typeof en;
/** Keys of words without a place for values. */
export type PlainKey = { [K in Key]: [Placeholders<(typeof en)[K]>] extends [never] ? K : never }[Key];
export type Language = keyof typeof dictionaries;
type Placeholders<Text extends string> = Text extends `${string}{${infer Name}}${infer Rest}` ? Name | Placeholders<Rest> : never;
/** What a text needs: nothing, or one value for each `{placeholder}` of its English words. */
export type Values<K extends Key> = [Placeholders<(typeof en)[K]>] extends [never]
  ? []
  : [values: Readonly<Record<Placeholders<(typeof en)[K]>, string | number>>];
/** The words of a key. Numbers among the values are written as this language writes them. */
export type Translate = <K extends Key>(key: K, ...values: Values<K>) => string;

export const language: Language = preferredLanguage();
/** For Intl: the browser's own variant of the language (`en-GB`), where it has one. */
export const locale: string = globalThis.navigator?.languages?.find((tag) => tag.toLowerCase().startsWith(language)) ?? language;

/** Makes `#language` show and choose the language. */
export function watchLanguage(mayLeave: () => boolean = () => true): void {
  const select = document.querySelector<HTMLSelectElement>("#language");
  if (!select) return;
  select.value = language;
  select.addEventListener("change", () => {
    if (mayLeave()) choose(select.value as Language);
    else select.value = language;
  });
}

/** Keeps the choice and loads the page again in that language. */
function choose(next: Language): void {
  try {
    localStorage.setItem(storageKey, next);
  } catch {
    return;
  }
  location.reload();
}

const numbers = new Intl.NumberFormat(locale);

export function translate(to: Language, key: Key, values: Readonly<Record<string, string | number>> = {}): string {
  return dictionaries[to][key].replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? numbers.format(value) : value;
  });
}

export const t: Translate = (key, ...values) => translate(language, key, values[0]);

/**
 * Puts the words into what the HTML file holds: `data-t="key"` is the text of an element, `data-t-title` its title, and
 * `data-t-label` its aria-label.
 */
export function translatePage(root: ParentNode = document): void {
  for (const element of root.querySelectorAll<HTMLElement>("[data-t]")) element.textContent = t(element.dataset.t as "page.tail");
  for (const element of root.querySelectorAll<HTMLElement>("[data-t-title]")) element.title = t(element.dataset.tTitle as "page.tail");
  for (const element of root.querySelectorAll<HTMLElement>("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel as "page.tail"));
  }
  delete document.documentElement.dataset.words; // boot.ts hides what the file says in another language
}
