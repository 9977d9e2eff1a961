import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { dictionaries, type Key } from "../src/i18n";
import { problemWords } from "../src/problems";

const keys = (Object.keys(dictionaries.en) as Key[]).filter((key) => key.startsWith("problem."));
/** Those with a status: what has none ends a process, and is never an answer. */
const answered = [...readFileSync("../../ERRORS.md", "utf8").matchAll(/^\| `([a-z_]+)` \| \d{3} \|/gm)].map((found) => found[1]!);

test("every code that the server may answer has words in both languages", () => {
  assert.ok(answered.length > 30);
  for (const language of [dictionaries.en, dictionaries.ko]) {
    for (const code of answered) assert.ok(Object.hasOwn(language, `problem.${code}`), `nothing is said about ${code}`);
  }
});

test("a text uses the members that its key names, and its code is one of the server's", () => {
  for (const key of keys) {
    const [, code, ...members] = key.split(".");
    assert.ok(answered.includes(code!), key);
    const used = [...dictionaries.en[key].matchAll(/\{(\w+)\}/g)].map((found) => found[1]);
    assert.deepEqual([...used].sort(), [...members].sort(), key);
  }
});

test("in Korean the code is told, with what the problem carries of it", () => {
  const title = "A field is wrong";
  const detail = "limit must be a number from 1 to 200, got '0'";
  const told = (problem: Record<string, unknown>): string => problemWords(422, { code: "invalid_field", title, detail, ...problem }, "ko");
  assert.equal(told({}), `보낸 내용에 잘못된 값이 있습니다. (${detail})`);
  assert.equal(told({ field: "limit" }), `‘limit’ 값이 올바르지 않습니다. (${detail})`);
  assert.equal(told({ field: "limit", limit: 1200 }), `‘limit’ 값이 올바르지 않습니다. 한도는 1,200입니다. (${detail})`);
  assert.equal(told({ field: "", limit: [1, 2] }), `보낸 내용에 잘못된 값이 있습니다. (${detail})`);
});

test("what the sender cannot mend is told in Korean alone", () => {
  const away = { code: "database_unavailable", title: "PostgreSQL is away", detail: "PostgreSQL is away; this was not done" };
  assert.equal(problemWords(503, away, "ko"), dictionaries.ko["problem.database_unavailable"]);
});

test("in English, and of a code that is not known, the server's words are told", () => {
  const problem = { code: "invalid_field", field: "limit", title: "A field is wrong", detail: "limit is wrong" };
  assert.equal(problemWords(422, problem, "en"), "limit is wrong");
  assert.equal(problemWords(422, { ...problem, detail: undefined }, "en"), "A field is wrong");
  assert.equal(problemWords(418, { code: "teapot", detail: "I am a teapot" }, "ko"), "I am a teapot");
});

test("an answer that is no problem is told by its status, or its code", () => {
  assert.equal(problemWords(502, {}, "ko"), "서버가 502 응답을 보냈습니다. 잠시 후 다시 시도하세요.");
  assert.equal(problemWords(422, { code: "invalid_field", field: "limit" }, "en"), "“limit” is wrong.");
});
