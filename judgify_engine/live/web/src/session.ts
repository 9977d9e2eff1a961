// Who is signed in. The cookie is the server's affair; this only asks and tells.
import { t } from "./i18n";
import { problemWords, type Problem } from "./problems";

export interface Session {
  readonly tenant_id: string;
  readonly scopes: readonly string[];
}

/** The session, null when signed out; throws when the server cannot say. */
export async function currentSession(): Promise<Session | null> {
  const answer = await fetch("/session", { headers: { accept: "application/json" }, cache: "no-store" });
  if (answer.status === 401) return null;
  if (!answer.ok) throw new Error(`GET /session: ${answer.status}`);
  return (await answer.json()) as Session;
}

/** Null when signed in, else the words to show. */
export async function signIn(token: string): Promise<string | null> {
  let answer: Response;
  try {
    answer = await fetch("/session", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify({ token }),
    });
  } catch {
    return t("page.unreachable");
  }
  if (answer.ok) return null;
  if (answer.status === 401) return t("login.invalid"); // in the person's language
  return problemWords(answer.status, (await answer.json().catch(() => ({}))) as Problem);
}

export async function signOut(): Promise<boolean> {
  try {
    const answer = await fetch("/session", { method: "DELETE" });
    return answer.ok || answer.status === 401;
  } catch {
    return false;
  }
}
