// Client: what the page is told: every state once and in order, whichever road comes first. Mirrors client/progress.py.

import type { Observable } from "../runtime/observable.ts";
import type { Status } from "./connector.ts";

const ORDER = ["requesting", "waiting-ready", "creating-offer", "waiting-answer", "connecting", "connected"];

/**
 * One story out of several roads. It is told from `begin` until a wire carries the session or a road has failed for all;
 * what the others do after that is theirs.
 */
export class Progress {
    private readonly status: Observable<Status>;
    private story = 0;
    private open = false;

    constructor(status: Observable<Status>) {
        this.status = status;
    }

    /** A connect or reconnect begins; what is still reported of the one before is not told. */
    begin(): void {
        this.story += 1;
        this.open = true;
    }

    /** For the machine of one road: hears its states, as long as its story is told. */
    reporter(): (status: Status) => void {
        const { story } = this;
        return (status) => {
            if (story !== this.story || !this.open || status.state === "idle") return;
            if (status.state === "connected") this.carried("webrtc");
            else this.status.set(status);
        };
    }

    /** A wire of this kind carries the session: the states up to `connected` have been passed. */
    carried(kind: string): void {
        if (!this.open) return;
        this.open = false;
        let { state, attempt } = this.status.value;
        if (state === "failed") {
            state = "retrying";
            this.status.set({ state, attempt, reason: `by ${kind}` });
        }
        if (state === "retrying") attempt += 1;
        for (const passed of ORDER.slice(ORDER.indexOf(state) + 1))
            this.status.set({
                state: passed as Status["state"],
                attempt: Math.max(attempt, 1),
                reason: passed === "connected" ? kind : "",
            });
    }

    /** Nothing more is told. */
    end(): void {
        this.open = false;
    }
}
