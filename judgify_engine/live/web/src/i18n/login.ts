// Words of the sign-in page and of what all pages share.
export const en = {
  "login.title": "Sign in",
  "login.pageTitle": "Sign in · Judgify",
  "login.help": "With a token that may read your tenant’s dashboards.",
  "login.token": "Token",
  "login.enter": "Enter a token.",
  "login.signingIn": "Signing in…",
  "login.invalid": "This token is not valid.",
  "page.docs": "API docs",
  "page.language": "Language",
  "page.dark": "Dark theme",
  "page.unreachable": "The server cannot be reached. Check the connection and try again.",
  "page.answered": "The server answered {status}. Try again in a moment.",
} as const;

export const ko: Record<keyof typeof en, string> = {
  "login.title": "로그인",
  "login.pageTitle": "로그인 · Judgify",
  "login.help": "테넌트의 대시보드를 읽을 수 있는 토큰으로 로그인하세요.",
  "login.token": "토큰",
  "login.enter": "토큰을 입력하세요.",
  "login.signingIn": "로그인하는 중…",
  "login.invalid": "유효하지 않은 토큰입니다.",
  "page.docs": "API 문서",
  "page.language": "언어",
  "page.dark": "어두운 테마",
  "page.unreachable": "서버에 연결할 수 없습니다. 연결 상태를 확인한 뒤 다시 시도하세요.",
  "page.answered": "서버가 {status} 응답을 보냈습니다. 잠시 후 다시 시도하세요.",
};
