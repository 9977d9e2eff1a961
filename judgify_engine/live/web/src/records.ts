import type { Mount } from "./panels";

export const mountRecords: Mount = (root, context) => {
  const title = document.createElement("h2");
  title.textContent = context.t("records.title");
  root.append(title);
  return { show: () => undefined, hide: () => undefined };
};
