// What is around the panels: navigation, language, theme, session, notices, and the number of alerts that are firing.
import { mountAlerts } from "./alerts";
import { makeFetchJson } from "./api";
import { byId, plain, setText } from "./dom";
import { language, locale, t, translatePage, watchLanguage } from "./i18n";
import { routeOf, type Context, type Mount, type Panel, type Route } from "./panels";
import type { OtherMessage } from "./protocol";
import { mountRecords } from "./records";
import { currentSession, signOut, type Session } from "./session";
import { mountTail } from "./tail";

type Handler = Parameters<Context["onSocketMessage"]>[0];

export interface ShellHandlers {
  /** The address changed: the dashboard follows its query. */
  follow(): void;
  /** The session has ended: the page is about to leave. */
  stop(): void;
  /** May the page show something else? */
  mayLeave(): Promise<boolean>;
}

const mounts: Readonly<Record<Exclude<Route["panel"], "dashboard">, Mount>> = { records: mountRecords, tail: mountTail, alerts: mountAlerts };

export class Shell {
  readonly context: Context;
  private readonly listeners = new Set<Handler>();
  private readonly panels = new Map<string, Panel>();
  private session: Session | null = null;
  /** The socket tells of alerts by itself. */
  private firingHeard = false;
  private tenantSeen = "";
  private current: Route["panel"] | null = null;
  /** The address that the page shows. */
  private followed = "";

  constructor(private readonly handlers: ShellHandlers) {
    this.context = {
      t,
      locale,
      tenant: () => this.session?.tenant_id ?? this.tenantSeen,
      mayChange: () => this.session?.scopes.includes("admin") ?? false,
      fetchJson: makeFetchJson(() => void this.checkSession()),
      navigate: (hash, replace = false) => this.go(`${location.pathname}${location.search}${hash}`, replace),
      onSocketMessage: (handler) => {
        this.listeners.add(handler);
        return () => this.listeners.delete(handler);
      },
      announce: (words) => this.announce(words),
    };
  }

  start(): void {
    translatePage();
    document.title = t("page.title");
    document.documentElement.lang = language;
    watchLanguage();
    addEventListener("popstate", () => void this.back());
    document.addEventListener("click", (event) => this.onLink(event));
    byId("sign-out").addEventListener("click", () => void this.signOut());
    this.context.onSocketMessage((message) => this.hearFiring(message));
  }

  /** The browser went to another entry of its history, or somebody typed a hash. */
  private async back(): Promise<void> {
    const { followed } = this;
    if (await this.handlers.mayLeave()) this.follow();
    else history.pushState(null, "", followed);
  }

  /** Goes to an address of this page. */
  go(address: string, replace = false): void {
    if (replace) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    this.follow();
  }

  /** Makes panels and dashboard follow the address. */
  follow(): void {
    const route = location.hash === "#main" ? routeOf("") : routeOf(location.hash);
    const changed = this.current !== route.panel;
    this.followed = location.href;
    if (changed) this.hide();
    this.current = route.panel;
    for (const name of ["dashboard", ...Object.keys(mounts)]) byId(`view-${name}`).hidden = name !== route.panel;
    for (const link of document.querySelectorAll<HTMLAnchorElement>("a[data-panel]")) {
      if (link.dataset.panel === route.panel) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (route.panel !== "dashboard") this.panel(route.panel).show(route);
    this.handlers.follow();
    if (changed) scrollTo(0, 0);
  }

  get panelShown(): Route["panel"] | null {
    return this.current;
  }

  private hide(): void {
    if (this.current && this.current !== "dashboard") this.panels.get(this.current)?.hide();
  }

  private panel(name: Exclude<Route["panel"], "dashboard">): Panel {
    let panel = this.panels.get(name);
    if (!panel) this.panels.set(name, (panel = mounts[name](byId(`view-${name}`), this.context)));
    return panel;
  }

  private onLink(event: MouseEvent): void {
    const target = event.target instanceof Element ? event.target : null;
    const link = target?.closest<HTMLAnchorElement>("a[href]");
    if (!link || !plain(event)) return;
    if (link.id === "skip") {
      event.preventDefault(); // the hash belongs to the panels
      byId("main").focus();
      return;
    }
    if (link.origin !== location.origin || link.pathname !== "/" || link.target) return;
    event.preventDefault();
    const address = link.getAttribute("href")!.startsWith("#") ? `${location.search}${link.hash}` : `${link.search}${link.hash}`;
    void this.leaveTo(`${link.pathname}${address}`);
  }

  private async leaveTo(address: string): Promise<void> {
    if (await this.handlers.mayLeave()) this.go(address);
  }

  announce(words: string): void {
    byId("announcer").textContent = words;
  }

  /** Shows that something failed, and says it; "": it did not. */
  complain(words: string): void {
    byId("notice").hidden = !words;
    setText(byId("notice"), words);
  }

  /** Hands a message of the socket to those who wait for it. */
  hand(message: OtherMessage): void {
    for (const listener of this.listeners) listener(message);
  }

  /** Asks how many alerts are firing, where the socket has not told it yet. A page of them is enough to say "many". */
  async askFiring(): Promise<void> {
    if (this.firingHeard) return;
    try {
      const { alerts } = await this.context.fetchJson<{ alerts: unknown[] }>("/api/v1/alerts?state=firing&limit=100");
      if (!this.firingHeard) this.showFiring(alerts.length);
    } catch {
      return; // the connection's state says that the server is away; it is asked again with the next whole message
    }
  }

  private hearFiring(message: OtherMessage): void {
    if (message.type !== "alerts" || typeof message.firing !== "number") return;
    this.firingHeard = true;
    this.showFiring(message.firing);
  }

  private showFiring(firing: number): void {
    const badge = byId("firing");
    const before = badge.dataset.value;
    badge.hidden = firing === 0;
    badge.dataset.value = String(firing);
    setText(badge, firing > 99 ? "99+" : String(firing));
    const words = firing ? t("page.firing", { n: firing }) : t("page.nothingFiring");
    badge.title = words;
    if (before !== String(firing) && (firing || before)) this.announce(words);
  }

  /** Who is signed in? Leaves for the form when nobody is. */
  async checkSession(): Promise<void> {
    try {
      this.session = await currentSession();
    } catch {
      return; // the server is away: the connection keeps trying, and asks again
    }
    if (this.session === null) return this.leave();
    const mayRead = this.session.scopes.includes("read");
    if (!mayRead) this.complain(t("page.mayNotRead", { scopes: this.session.scopes.join(", ") || "–" }));
    this.showTenant("");
  }

  /** `seen`: the tenant that the figures are of. */
  showTenant(seen: string): void {
    this.tenantSeen ||= seen;
    const tenant = this.context.tenant();
    byId("tenant").title = tenant;
    setText(byId("tenant"), tenant);
  }

  private leave(): void {
    this.handlers.stop();
    location.replace("/login");
  }

  private async signOut(): Promise<void> {
    if (!(await this.handlers.mayLeave())) return;
    if (await signOut()) this.leave();
    else this.complain(t("page.signOutFailed"));
  }
}
