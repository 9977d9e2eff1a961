// Words of the panels: judgments and one record, live tail, alerts.
export const en = {
  "records.title": "Judgments",
  "tail.title": "Live tail",
  "alerts.title": "Alerts",
} as const;

export const ko: Record<keyof typeof en, string> = {
  "records.title": "판정",
  "tail.title": "실시간 판정",
  "alerts.title": "알림",
};
