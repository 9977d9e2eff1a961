// The charts of one definition, in their order, drawn live or as they were at a time that is past.
import { Card, type CardServices } from "./cards";
import type { Definition } from "./definition";
import { t } from "./i18n";
import type { Past } from "./history";
import { frameAt } from "./points";
import type { Timeframe } from "./protocol";
import { serverNow, timeframeS, type State } from "./state";

/** What `draw` shows: figures of now, or of the past (those that have come by chart id; the others are under way). */
export type Shown = { readonly live: State; readonly now: number } | { readonly past: ReadonlyMap<string, Past>; readonly timeframe: Timeframe };

export class Board {
  private cards: Card[] = [];

  constructor(
    private readonly root: HTMLElement,
    private readonly services: CardServices,
  ) {}

  get shown(): readonly Card[] {
    return this.cards;
  }

  /** Takes a definition over. Charts that did not change stay the very same elements, figures, focus and all. */
  take(definition: Definition): void {
    const known = new Map(this.cards.map((card) => [card.definition.id, card]));
    this.cards = definition.charts.map((chart) => {
      const card = known.get(chart.id);
      if (!card || JSON.stringify(card.definition) !== JSON.stringify(chart)) return new Card(chart, this.services);
      known.delete(chart.id);
      return card;
    });
    for (const card of known.values()) card.destroy();
    // Only what stands elsewhere is moved: moving an element takes the focus from what is in it.
    this.cards.forEach((card, i) => {
      if (this.root.children[i] !== card.root) this.root.insertBefore(card.root, this.root.children[i] ?? null);
    });
    this.root.classList.add("taken");
  }

  /** `all`: the workflows' counts are since the beginning, whatever time is shown. */
  draw(shown: Shown, all: State): void {
    for (const card of this.cards) {
      card.drawWorkflows(all.workflows, all.ready);
      if ("live" in shown) this.drawLive(card, shown.live, shown.now);
      else this.drawPast(card, shown.past.get(card.definition.id), shown.timeframe);
    }
  }

  private drawLive(card: Card, state: State, now: number): void {
    const { timeframe, bucketS, charts, ready } = state;
    if (!ready) return;
    const frame = frameAt(serverNow(state, now), bucketS, timeframeS[timeframe]);
    card.draw(charts.get(card.definition.id) ?? null, frame, timeframe, t("chart.loading"));
  }

  private drawPast(card: Card, past: Past | undefined, timeframe: Timeframe): void {
    if (!past) return;
    card.draw(past.data, past.frame, timeframe, past.why);
  }

  restyle(): void {
    for (const card of this.cards) card.restyle();
  }
}
