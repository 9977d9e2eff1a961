// Small helpers for elements. Text only, never markup: what comes from data can do nothing here.

export function byId<E extends HTMLElement = HTMLElement>(id: string): E {
  const element = document.getElementById(id);
  if (!element) throw new Error(`no element #${id}`);
  return element as E;
}

export const setText = (element: Element, text: string): void => {
  if (element.textContent !== text) element.textContent = text;
};
export const setAttribute = (element: Element, name: string, value: string): void => {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
};

type Child = Node | string | null;

/** An element with attributes (`class`, `for`, `aria-…`; true: present, false and null: absent) and children. */
export function el<T extends keyof HTMLElementTagNameMap>(
  tag: T,
  attributes: Readonly<Record<string, string | number | boolean | null>> = {},
  ...children: Child[]
): HTMLElementTagNameMap[T] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A button that does something. */
export function button(words: string, act: () => void, className = ""): HTMLButtonElement {
  const made = el("button", { type: "button", class: className || null }, words);
  made.addEventListener("click", act);
  return made;
}

/** A click that asks for this page and not for a new tab. */
export const plain = (event: MouseEvent): boolean =>
  event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
