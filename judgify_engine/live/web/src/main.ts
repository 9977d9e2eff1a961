// The page: the shell, and in it the dashboard and the panels.
import { DashboardPanel } from "./dashboard";
import { byId } from "./dom";
import { t } from "./i18n";
import { Shell } from "./shell";
import { watchTheme } from "./theme";

const shell = new Shell({
  follow: () => dashboard.follow(),
  stop: () => dashboard.stop(),
  mayLeave: () => dashboard.editor.mayLeave(),
});
shell.start();
const dashboard = new DashboardPanel(shell);

async function copy(button: HTMLButtonElement): Promise<void> {
  const source = byId(button.dataset.copy!);
  try {
    await navigator.clipboard.writeText(source.textContent ?? "");
    button.textContent = t("first.copied");
  } catch {
    getSelection()?.selectAllChildren(source); // no clipboard without https: select it, the person presses the keys
    button.textContent = t("first.selected");
  }
  setTimeout(() => (button.textContent = t("first.copy")), 2000);
}

for (const button of document.querySelectorAll<HTMLButtonElement>("button[data-copy]")) {
  button.addEventListener("click", () => void copy(button));
}
watchTheme(() => dashboard.restyle());
shell.follow();
void shell.checkSession();
