// Runs before the first paint, in the head: the page must not flash in the other theme, nor in the other language.
import { preferredLanguage } from "./language";
import { applyTheme } from "./theme";

applyTheme();
document.documentElement.lang = preferredLanguage();
if (document.documentElement.lang !== "en" && !location.pathname.startsWith("/docs")) document.documentElement.dataset.words = "pending";
