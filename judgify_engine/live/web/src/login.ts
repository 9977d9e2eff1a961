// The sign-in page.
import { signIn } from "./session";
import { watchTheme } from "./theme";

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
  if (!token) return show("Enter a token.");
  button.disabled = true;
  button.textContent = "Signing in…";
  const words = await signIn(token);
  if (words === null) return location.replace("/");
  button.disabled = false;
  button.textContent = "Sign in";
  show(words);
}

function show(words: string): void {
  error.textContent = words;
  field.setAttribute("aria-invalid", "true");
  field.focus();
  field.select();
}
