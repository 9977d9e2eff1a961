import type { Mount } from "./panels";

export const mountTail: Mount = (root, context) => {
  const title = document.createElement("h2");
  title.textContent = context.t("tail.title");
  root.append(title);
  return { show: () => undefined, hide: () => undefined };
};
