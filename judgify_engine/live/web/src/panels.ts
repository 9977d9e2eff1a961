// What the shell gives to the panels beside the dashboard, and what it asks of them. The shell owns the address, the
// connection and the session; a panel owns everything inside its root, and touches nothing outside it.
//
// The panel shown is in the address's hash, so that it can be kept, shared and gone back to:
//   (none), #/                     the dashboard
//   #/tail?workflow_id=…           the live tail
//   #/alerts?state=…               alerts
//   #/judgments?created_from=…     judgments, filtered as GET /api/v1/judgments is: the query's names are the same
//   #/judgments/ID                 one judgment's whole record
import type { Translate } from "./i18n";

export interface Route {
  readonly panel: "dashboard" | "records" | "tail" | "alerts";
  /** The judgment of `#/judgments/ID`; null for a list, and in the other panels. */
  readonly id: string | null;
  readonly query: URLSearchParams;
}

/** What `fetchJson` throws: an answer that is not 2xx, with words for its problem+json; `status` 0: no answer came. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly problem: Readonly<Record<string, unknown>> = {},
  ) {
    super(message);
  }
}

export interface Context {
  readonly t: Translate;
  /** For Intl. */
  readonly locale: string;
  /** The tenant's id; "" until it is known. */
  tenant(): string;
  /** Whether the session may change things (the scope `admin`): acknowledge, silence. */
  mayChange(): boolean;
  /**
   * The JSON that `path` (same origin, `/api/v1/…`) answers; undefined for 204. The session's cookie speaks for the
   * person. A `body` is sent as JSON. Throws Refused; a session that has ended leads to the sign-in page by itself.
   */
  fetchJson<T>(path: string, options?: { method?: string; body?: unknown; headers?: Record<string, string>; signal?: AbortSignal }): Promise<T>;
  /** Goes to an address like `#/judgments/ID`; `replace`: without a new entry in the history (filters being typed). */
  navigate(hash: string, replace?: boolean): void;
  /**
   * Every JSON message of the dashboard's socket that is not a dashboard message (`{"type": "alerts", …}`), until the
   * returned function is called.
   */
  onSocketMessage(handler: (message: { readonly type: string } & Readonly<Record<string, unknown>>) => void): () => void;
  /** Says something to screen readers. */
  announce(words: string): void;
}

export interface Panel {
  /** The panel is in the address: show this, load what it needs. Called again when only the query or the id changed. */
  show(route: Route): void;
  /** Another panel is shown: close sockets, end timers. `show` may come again. */
  hide(): void;
}

/** `mountRecords`, `mountTail`, `mountAlerts`: called once, with an empty element that is the panel's for ever. */
export type Mount = (root: HTMLElement, context: Context) => Panel;

/** The panel and its query in a hash. */
export function routeOf(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name, id] = path.split("/", 2);
  const panel = name === "tail" ? "tail" : name === "alerts" ? "alerts" : name === "judgments" ? "records" : "dashboard";
  return { panel, id: panel === "records" && id ? decoded(id) : null, query: new URLSearchParams(query) };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a hash somebody typed: the server says that there is nothing of this id
  }
}
