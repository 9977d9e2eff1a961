import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { dictionaries, translate, type Key } from "../src/i18n";
import { pick } from "../src/language";

const keys = Object.keys(dictionaries.en) as Key[];
const placeholders = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map((found) => found[1]!).sort();

test("both languages have the same keys, and no text is empty", () => {
  assert.deepEqual(Object.keys(dictionaries.ko).sort(), [...keys].sort());
  for (const language of [dictionaries.en, dictionaries.ko]) for (const key of keys) assert.ok(language[key].trim(), key);
});

test("a text has the same placeholders in both languages", () => {
  for (const key of keys) assert.deepEqual(placeholders(dictionaries.ko[key]), placeholders(dictionaries.en[key]), key);
});

test("the Korean texts are Korean", () => {
  const same = keys.filter((key) => dictionaries.ko[key] === dictionaries.en[key]);
  const universal = same.filter((key) => !/[a-z]{2,} [a-z]{2,}/i.test(dictionaries.en[key]));
  assert.deepEqual(same, universal, "a sentence was left in English");
});

test("what the pages ask for is there", () => {
  for (const page of ["index.html", "login.html"]) {
    const asked = [...readFileSync(page, "utf8").matchAll(/ data-t(?:-title|-label)?="([^"]+)"/g)].map((found) => found[1]!);
    assert.ok(asked.length > 3);
    for (const key of asked) {
      assert.ok(Object.hasOwn(dictionaries.en, key), `${page}: ${key}`);
      assert.deepEqual(placeholders(dictionaries.en[key as Key]), [], `${page}: ${key} has nothing to fill it`);
    }
  }
});

test("the language is the first preferred one that the pages speak", () => {
  assert.equal(pick(["", "fr-FR", "ko-KR", "en-US"]), "ko");
  assert.equal(pick(["en-GB", "ko"]), "en");
  assert.equal(pick(["fr"]), "en");
  assert.equal(pick([]), "en");
});

test("values are filled in, numbers as the language writes them", () => {
  assert.equal(translate("en", "results.more", { n: 1234 }), "and 1,234 more verdicts");
  assert.equal(translate("ko", "age.seconds", { n: 5 }), "5초 전");
});
