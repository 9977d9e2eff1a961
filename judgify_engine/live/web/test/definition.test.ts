import assert from "node:assert/strict";
import test from "node:test";
import { addressOf, readAddress, socketAddress } from "../src/address";
import { add, change, differences, freshId, move, readStored, remove, same, written, type ChartDefinition, type Definition } from "../src/definition";
import { routeOf } from "../src/panels";

const chart = (id: string, more: Partial<ChartDefinition> = {}): ChartDefinition => ({ id, type: "execution_count_chart", width: "half", lines: [], ...more });
const definition: Definition = { name: "Main", timeframe: "1h", workflow_ids: [], charts: [chart("a"), chart("b"), chart("c")] };
const ids = (of: Definition): string[] => of.charts.map((one) => one.id);

test("charts are added, moved, changed and removed, and the definition before stays as it was", () => {
  const copy = structuredClone(definition);
  assert.deepEqual(ids(move(definition, "c", -1)), ["a", "c", "b"]);
  assert.equal(move(definition, "a", -1), definition, "there is nothing before the first");
  assert.equal(move(definition, "c", 1), definition);
  assert.deepEqual(ids(remove(definition, "b")), ["a", "c"]);
  const more = add(add(definition, chart("")), chart(""));
  assert.deepEqual(ids(more), ["a", "b", "c", "execution-count", "execution-count-2"]);
  assert.equal(change(definition, "b", chart("", { title: "B" })).charts[1]!.title, "B");
  assert.deepEqual(definition, copy);
});

test("ids are free and of the kind that the API takes", () => {
  assert.equal(freshId("Line 3: pressure!", []), "line-3-pressure");
  assert.equal(freshId("공장", []), "dashboard");
  assert.equal(freshId("main", ["main", "main-2"]), "main-3");
  assert.ok(/^[A-Za-z0-9_-]{1,64}$/.test(freshId("x".repeat(500), [])));
});

test("what is written is what the API takes: nothing that says nothing, and no field where none belongs", () => {
  const charts = [chart("a", { title: "", field: "x" }), chart("t", { type: "tracked_inputs_chart", field: "value", title: "Heat" })];
  assert.deepEqual(written({ ...definition, charts })["charts"], [
    { id: "a", type: "execution_count_chart", width: "half", lines: [] },
    { id: "t", type: "tracked_inputs_chart", title: "Heat", width: "half", field: "value", lines: [] },
  ]);
});

test("a stored definition is read whatever else is in the answer", () => {
  const stored = readStored("x", { dashboard_id: "x", version: 3, name: "X", charts: [{ id: "a", type: "methods_chart" }] });
  assert.deepEqual([stored.version, stored.definition.timeframe, stored.definition.charts], [3, "1h", [{ id: "a", type: "methods_chart", width: "half", lines: [] }]]);
  assert.ok(same(stored.definition, readStored("x", { definition: written(stored.definition) }).definition));
});

test("a conflict names what differs", () => {
  const theirs = { ...definition, charts: [chart("a", { title: "other" }), chart("c"), chart("d")] };
  assert.deepEqual(differences(definition, theirs), { added: ["d"], removed: ["b"], changed: ["a"] });
});

test("addresses say what is shown, and are read back", () => {
  for (const asked of [
    { dashboardId: "main", timeframe: null, workflowId: null, until: null },
    { dashboardId: "line-3", timeframe: "7d", workflowId: "a.b:c_-1", until: 1_700_000_000 },
  ] as const) {
    const address = addressOf(asked);
    assert.deepEqual(readAddress(address.slice(1)), asked);
  }
  assert.equal(readAddress("?timeframe=toString").timeframe, null);
  assert.equal(readAddress("?until=nonsense").until, null);
});

test("only who saw figures names a position", () => {
  assert.equal(readAddress("?workflow_id=by%20hand").workflowId, null, "no figures of it alone can be asked for");
  const asked = readAddress("?workflow_id=w");
  assert.equal(socketAddress(asked, "1h", null, 3), "/ws/dashboards/main?timeframe=1h&workflow_id=w");
  assert.equal(socketAddress(asked, "1h", "0/1-2@x", 3), "/ws/dashboards/main?timeframe=1h&workflow_id=w&position=0%2F1-2%40x&definition_version=3");
});

test("hashes name panels", () => {
  assert.equal(routeOf("").panel, "dashboard");
  assert.equal(routeOf("#/tail?status=failed").query.get("status"), "failed");
  assert.deepEqual([routeOf("#/judgments?result=ok").panel, routeOf("#/judgments?result=ok").id], ["records", null]);
  assert.equal(routeOf("#/judgments/0190-1").id, "0190-1");
  assert.equal(routeOf("#/judgments/%").id, "%");
});
