// Client: hears of all that makes a wire doubtful: the page was asleep, hidden or frozen, or the network is another one.

import type { Unwatch } from "../runtime/observable.ts";

/** Seconds between two looks at the clock, and how much more than that is a sleep. */
const LOOK = 2;
const JUMP = 3;

/** The part of the page that is listened to; a test has its own. */
export interface Surroundings {
    readonly window: EventTarget;
    readonly document: EventTarget & { readonly visibilityState: string };
    /** `navigator.connection`, where the browser has it. */
    readonly network?: EventTarget | undefined;
}

/** Tell `hurry` why, whenever it is time to look whether the wires still answer. */
export function watchForWaking(hurry: (why: string) => void, around: Surroundings = browser()): Unwatch {
    const listening: [EventTarget | undefined, string, (event: Event) => void][] = [
        [around.window, "online", () => hurry("online again")],
        [
            around.window,
            "pageshow",
            (event) => (event as PageTransitionEvent).persisted && hurry("shown again"),
        ],
        [
            around.document,
            "visibilitychange",
            () => around.document.visibilityState === "visible" && hurry("visible again"),
        ],
        [around.document, "resume", () => hurry("resumed after a freeze")],
        [around.network, "change", () => hurry("the network changed")],
    ];
    for (const [target, name, listener] of listening) target?.addEventListener(name, listener);
    let last = Date.now(); // not performance.now(), which stands still while some machines sleep
    const timer = setInterval(() => {
        const elapsed = (Date.now() - last) / 1000;
        last = Date.now();
        if (elapsed > LOOK + JUMP) hurry("awake again");
    }, LOOK * 1000);
    return () => {
        clearInterval(timer);
        for (const [target, name, listener] of listening) target?.removeEventListener(name, listener);
    };
}

function browser(): Surroundings {
    const { connection } = navigator as Navigator & { readonly connection?: EventTarget };
    return { window, document, network: connection };
}
