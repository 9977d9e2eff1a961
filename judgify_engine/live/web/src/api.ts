// Calls of the API from the page. The session's cookie speaks for the person; the server refuses it from other sites.
import { t } from "./i18n";
import { Refused, type Context } from "./panels";
import { problemWords, type Problem } from "./problems";

const timeoutMs = 20_000;

/** `signedOut` runs when the session has ended. */
export function makeFetchJson(signedOut: () => void): Context["fetchJson"] {
  return async <T>(path: string, options: Parameters<Context["fetchJson"]>[1] = {}): Promise<T> => {
    const timeout = AbortSignal.timeout(timeoutMs);
    const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
    const headers: Record<string, string> = { accept: "application/json", ...options.headers };
    const init: RequestInit = { method: options.method ?? "GET", headers, signal, cache: "no-store" };
    if (options.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(options.body);
    }
    let answer: Response;
    try {
      answer = await fetch(path, init);
    } catch (error) {
      if (options.signal?.aborted) throw error; // nobody wants it any more
      throw new Refused(0, "unreachable", t("page.unreachable"));
    }
    if (answer.status === 401) signedOut();
    if (!answer.ok) throw await refusal(answer);
    return (answer.status === 204 ? undefined : await answer.json()) as T;
  };
}

async function refusal(answer: Response): Promise<Refused> {
  const problem = (await answer.json().catch(() => ({}))) as Problem;
  return new Refused(answer.status, String(problem.code ?? ""), problemWords(answer.status, problem), problem);
}

/** What to tell a person about anything that was thrown. */
export const wordsOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
