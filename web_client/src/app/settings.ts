// App: what the user has chosen for this browser.

import { Observable } from "../runtime/observable.ts";

const READER = "doorstep.reader";

/** Keep an accessible copy of the screen, for screen readers. */
export const reader = new Observable(localStorage.getItem(READER) === "on");

reader.watch((on) => {
    if (on) localStorage.setItem(READER, "on");
    else localStorage.removeItem(READER);
});
