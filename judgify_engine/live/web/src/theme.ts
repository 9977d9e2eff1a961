// Light or dark: the system's choice, unless the person chose the other one here. Choosing what the system has anyway
// forgets the choice, so the page follows the system again.
const key = "judgify.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

type Theme = "light" | "dark";

function chosen(): Theme | null {
  try {
    const value = localStorage.getItem(key);
    return value === "light" || value === "dark" ? value : null;
  } catch {
    return null; // storage is switched off: follow the system
  }
}

const system = (): Theme => (dark.matches ? "dark" : "light");
const shown = (): Theme => chosen() ?? system();

export function applyTheme(): void {
  const theme = shown();
  document.documentElement.dataset.theme = theme;
  document.documentElement.classList.toggle("dark-mode", theme === "dark"); // what Swagger UI looks for
}

/** Wires every `[data-theme-toggle]` button; `changed` runs after each change of theme. */
export function watchTheme(changed: () => void = () => undefined): void {
  const buttons = document.querySelectorAll<HTMLButtonElement>("[data-theme-toggle]");
  const update = (): void => {
    applyTheme();
    for (const button of buttons) button.setAttribute("aria-pressed", String(shown() === "dark"));
    changed();
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const next: Theme = shown() === "dark" ? "light" : "dark";
      try {
        if (next === system()) localStorage.removeItem(key);
        else localStorage.setItem(key, next);
      } catch {
        return;
      }
      update();
    });
  }
  dark.addEventListener("change", update);
  addEventListener("storage", (event) => {
    if (event.key === key) update();
  });
  update();
}
