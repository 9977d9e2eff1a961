// Runs before the first paint, in the head: the page must not flash in the other theme.
import { applyTheme } from "./theme";

applyTheme();
