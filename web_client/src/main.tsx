// App: the entry.

import "@xterm/xterm/css/xterm.css";
import "./app/styles/tokens.css";
import "./app/styles/controls.css";
import "./app/styles/layout.css";
import "./app/styles/terminal.css";
import { render } from "preact";
import { App } from "./app/app.tsx";
import { start } from "./app/backend.ts";
import { startRoute, takeSignInToken } from "./app/route.ts";
import { startTheme } from "./app/theme.ts";

const token = takeSignInToken(); // out of the address before anything is asked or shown
startTheme();
startRoute();
const root = document.getElementById("root");
if (root) render(<App />, root);
void start(token);
