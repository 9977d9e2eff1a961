// Words of the shell, the dashboards and their editor.
export const en = {
  "page.dashboard": "Dashboard",
  "page.tail": "Live tail",
  "page.alerts": "Alerts",
} as const;

export const ko: Record<keyof typeof en, string> = {
  "page.dashboard": "대시보드",
  "page.tail": "실시간 판정",
  "page.alerts": "알림",
};
