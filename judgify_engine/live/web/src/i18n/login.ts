// Words of the sign-in page and of what all pages share.
export const en = {
  "login.title": "Sign in",
} as const;

export const ko: Record<keyof typeof en, string> = {
  "login.title": "로그인",
};
