import type { Mount } from "./panels";

export const mountAlerts: Mount = (root, context) => {
  const title = document.createElement("h2");
  title.textContent = context.t("alerts.title");
  root.append(title);
  return { show: () => undefined, hide: () => undefined };
};
