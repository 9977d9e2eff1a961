// Any workflow of the tenant: the messages of a dashboard name the busiest ones only.
import { isWorkflowId } from "./address";
import { ask, field } from "./dialog";
import { el } from "./dom";
import { t } from "./i18n";
import type { Context } from "./panels";

const suggested = 20;

/** Asks for a workflow, suggesting those whose ids hold what is typed; null: the person left. One that is gone can be named, too. */
export async function askWorkflow(fetchJson: Context["fetchJson"]): Promise<string | null> {
  const list = el("datalist", { id: "workflow-ids" });
  const input = el("input", { type: "text", list: list.id, maxlength: 128, spellcheck: "false", autocomplete: "off" });
  let loading = new AbortController();
  const suggest = async (): Promise<void> => {
    loading.abort();
    const { signal } = (loading = new AbortController());
    const query = new URLSearchParams({ contains: input.value.trim(), limit: String(suggested) });
    try {
      const { items } = await fetchJson<{ items: { workflow_id: string }[] }>(`/api/v1/workflows?${query}`, { signal });
      if (!signal.aborted) list.replaceChildren(...items.map((one) => el("option", { value: one.workflow_id })));
    } catch {
      return; // what is suggested stays; an id can be typed without
    }
  };
  input.addEventListener("input", () => void suggest());
  void suggest();
  const chosen = await ask({
    title: t("filter.otherTitle"),
    content: [field(t("filter.workflow"), input, t("filter.otherHelp")), list],
    choices: [{ words: t("records.apply"), value: true }],
    check: () => (isWorkflowId(input.value.trim()) ? null : t("filter.noId")),
  });
  loading.abort();
  return chosen ? input.value.trim() : null;
}
