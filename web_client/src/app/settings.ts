// App: what the user has chosen for this browser.

import type { Force } from "../client/roads.ts";
import { Observable } from "../runtime/observable.ts";

const READER = "doorstep.reader";
const FORCE = "doorstep.force";
const FORCES: readonly string[] = ["direct", "turn", "relay", "broadcast"] satisfies Force[];

/** Keep an accessible copy of the screen, for screen readers. */
export const reader = new Observable(localStorage.getItem(READER) === "on");

reader.watch((on) => {
    if (on) localStorage.setItem(READER, "on");
    else localStorage.removeItem(READER);
});

/** One kind of wire and no other, for support. */
export const force = new Observable<Force | null>(readForce());

force.watch((kind) => {
    if (kind) localStorage.setItem(FORCE, kind);
    else localStorage.removeItem(FORCE);
});

function readForce(): Force | null {
    const kind = localStorage.getItem(FORCE);
    return kind !== null && isForce(kind) ? kind : null;
}

export function isForce(word: string): word is Force {
    return FORCES.includes(word);
}
