// Questions on top of the page. <dialog> itself keeps the focus inside, closes at Escape and gives the focus back.
import { button, el } from "./dom";
import { t } from "./i18n";

export interface Choice<T> {
  readonly words: string;
  readonly value: T;
  readonly className?: string;
}

export interface Question<T> {
  readonly title: string;
  readonly content: readonly (Node | string)[];
  readonly choices: readonly Choice<T>[];
  /** Words that say what is missing before a choice may be taken; null: all is there. */
  readonly check?: (value: T) => string | null;
}

/** The choice taken; null: Escape, or the button that leaves. The first choice is taken by Enter in a field. */
export function ask<T>({ title, content, choices, check }: Question<T>, leave: string = t("edit.cancel")): Promise<T | null> {
  return new Promise((resolve) => {
    const heading = el("h2", { id: "dialog-title" }, title);
    const error = el("p", { class: "error", role: "alert" });
    const dialog = el("dialog", { "aria-labelledby": "dialog-title" });
    let answer: T | null = null;
    const take = (value: T): void => {
      const missing = check?.(value) ?? null;
      if (missing !== null) {
        error.textContent = missing;
        return;
      }
      answer = value;
      dialog.close();
    };
    const [first, ...others] = choices;
    const submit = el("button", { type: "submit", class: first!.className ?? "primary" }, first!.words);
    const buttons = others.map((choice) => button(choice.words, () => take(choice.value), choice.className));
    const form = el(
      "form",
      { method: "dialog", novalidate: true },
      heading,
      ...content.map((part) => (typeof part === "string" ? el("p", {}, part) : part)),
      error,
      el("div", { class: "buttons" }, submit, ...buttons, button(leave, () => dialog.close(), "quiet")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      take(first!.value);
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    dialog.append(form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A field with its label, and a line of help. */
export function field(label: string, input: HTMLElement, help = ""): HTMLElement {
  const id = `field-${(made += 1)}`;
  input.id = id;
  const described = help ? el("small", { id: `${id}-help` }, help) : null;
  if (described) input.setAttribute("aria-describedby", described.id);
  return el("div", { class: "field" }, el("label", { for: id }, label), input, described);
}
let made = 0;

export function select<T extends string>(options: readonly (readonly [value: T, words: string])[], value: T): HTMLSelectElement {
  const made = el("select", {}, ...options.map(([one, words]) => el("option", { value: one }, words)));
  made.value = value;
  return made;
}
