// Runtime: is the peer still there? Counts ticks of our own loop, not time; mirrors runtime/pulse.py.
//
// A page that was blocked or suspended makes one late tick, not many: our own sleep is never taken for the peer's silence.

import type { Timing } from "../protocol/timing.ts";

const TICKS_PER_PING = 4;

export type Beat = "nothing" | "ping" | "lost";

export class Pulse {
    /** Seconds between two ticks. */
    readonly interval: number;
    private readonly silence: number;
    private readonly giveUp: number;
    private fresh = true;
    private silent = 0;
    private idle = 0;
    private sent = 0;

    /**
     * A wire whose session can resume is given up early: within `timing.silence`. With `patience` everything takes so many
     * times longer.
     */
    constructor(timing: Timing, resumable = false, patience = 1) {
        const interval = timing.ping / TICKS_PER_PING;
        this.interval = interval * patience;
        this.silence = Math.ceil(timing.silence / interval);
        // The tick after the last frame counts nothing yet.
        this.giveUp = resumable ? Math.max(this.silence - 1, 1) : Math.ceil(timing.giveUp / interval);
    }

    /** Nothing came for `timing.silence`. */
    get stalled(): boolean {
        return this.silent >= this.silence && !this.fresh;
    }

    /** A frame came. */
    heard(): void {
        this.fresh = true;
    }

    /** Count one tick; `framesSent` is the session's total so far. */
    tick(framesSent: number): Beat {
        this.silent = this.fresh ? 0 : this.silent + 1;
        this.fresh = false;
        this.idle = framesSent === this.sent ? this.idle + 1 : 0;
        this.sent = framesSent;
        if (this.silent >= this.giveUp) return "lost";
        return this.idle >= TICKS_PER_PING ? "ping" : "nothing";
    }
}
