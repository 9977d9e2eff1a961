// The sign-in page.
import { t, translatePage, watchLanguage } from "./i18n";
import { signIn } from "./session";
import { watchTheme } from "./theme";

translatePage();
document.title = t("login.pageTitle");
watchLanguage();
watchTheme();

const form = document.querySelector<HTMLFormElement>("#sign-in")!;
const field = document.querySelector<HTMLInputElement>("#token")!;
const error = document.querySelector<HTMLElement>("#sign-in-error")!;
const button = form.querySelector<HTMLButtonElement>("button[type=submit]")!;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  void submit();
});

async function submit(): Promise<void> {
  const token = field.value.trim();
  if (!token) return show(t("login.enter"));
  button.disabled = true;
  button.textContent = t("login.signingIn");
  const words = await signIn(token);
  if (words === null) return location.replace("/");
  button.disabled = false;
  button.textContent = t("login.title");
  show(words);
}

function show(words: string): void {
  error.textContent = words;
  field.setAttribute("aria-invalid", "true");
  field.focus();
  field.select();
}
