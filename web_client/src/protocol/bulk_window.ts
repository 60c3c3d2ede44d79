// Protocol: how much bulk may be under way on a relay wire, so that a keystroke never waits long behind it.
//
// Mirrors protocol/bulk_window.py, which says why. The receiver says how many bytes of the bulk lanes it has taken
// (`BulkTaken`); the sender keeps no more under way than the road carries in its shortest round trip and `TARGET`
// (`BulkWindow`). Times are seconds of any steady clock.

import { ProtocolError } from "./errors.ts";
import type { Lane } from "./lanes.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** The receiver speaks after so many bytes or, on a slow road, seconds since it last did. */
export const TELL_EVERY = 32 * KIB;
export const TELL_AFTER = 0.005;
const FIRST = 128 * KIB;
export const LEAST = TELL_EVERY;
export const MOST = 16 * MIB;
/** Seconds of queue that bulk may make. */
const TARGET = 0.01;
/** Seconds between two looks at the empty road. */
const PROBE = 10;
const INSTANT = 1e-6;
/** At first a whole window goes out at once: its own queue, up to so much of the trip, is not the road's. */
const BURST = 1.25;
/** Seconds for which a rate is remembered, beside four round trips. */
const REMEMBERED = 0.05;

/** The other lanes are never held back. */
export function isBulk(lane: Lane): boolean {
    return lane === "browser-stream" || lane === "file-transfer";
}

/** The receiver's side. */
export class BulkTaken {
    count = 0;
    private told = 0;
    private at: number;

    constructor(now: number) {
        this.at = now;
    }

    /** Bulk was taken; whether to tell the sender `count` now. */
    take(size: number, now: number): boolean {
        this.count += size;
        if (this.count - this.told < TELL_EVERY && now - this.at < TELL_AFTER) return false;
        this.told = this.count;
        this.at = now;
        return true;
    }
}

/** A sent message: where it ends, when it went, what was taken then and since when, how full it was. */
interface Mark {
    readonly position: number;
    readonly at: number;
    readonly taken: number;
    readonly since: number;
    readonly filled: boolean;
    readonly alone: boolean;
}

/** The sender's side. */
export class BulkWindow {
    window = FIRST;
    /** The shortest one seen since the last look at the empty road. */
    roundTrip: number | null = null;
    private sentBytes = 0;
    private takenBytes = 0;
    private since: number;
    private marks: Mark[] = [];
    /** Times and rates, the best first: each is lower than the one before. */
    private rates: { at: number; rate: number }[] = [];
    private probeAt: number;
    private probing = false;
    private starting = true;

    constructor(now: number) {
        this.since = now;
        this.probeAt = now + PROBE;
    }

    /** Bytes sent and not said to be taken. */
    get underWay(): number {
        return this.sentBytes - this.takenBytes;
    }

    /** Whether the next message may go. */
    get open(): boolean {
        return this.underWay < (this.probing ? LEAST : this.window);
    }

    /** A message of `size` bytes was handed to the socket. */
    sent(size: number, now: number): void {
        if (this.underWay < TELL_EVERY) this.since = now; // nothing was waited for: the time before says nothing
        this.sentBytes += size;
        this.marks.push({
            position: this.sentBytes,
            at: now,
            taken: this.takenBytes,
            since: this.since,
            filled: !this.open,
            alone: this.underWay <= LEAST,
        });
    }

    /** The receiver has taken `count` bytes since the beginning. Throws `ProtocolError`. */
    taken(count: number, now: number): void {
        if (count < this.takenBytes || count > this.sentBytes)
            throw new ProtocolError("the peer says it has taken what was not sent");
        const passed = this.marks.findIndex((mark) => mark.position > count);
        const gone = this.marks.splice(0, passed < 0 ? this.marks.length : passed);
        this.takenBytes = count;
        this.since = now;
        const last = gone.at(-1);
        if (last) this.learn(last, now);
    }

    private learn(mark: Mark, now: number): void {
        const trip = Math.max(now - mark.at, INSTANT);
        if (this.probing) return this.look(mark, trip, now);
        const shortest = Math.min(this.roundTrip ?? trip, trip);
        this.roundTrip = shortest;
        this.starting = this.starting && trip < shortest * BURST + TARGET;
        const rate = (this.takenBytes - mark.taken) / Math.max(now - mark.since, INSTANT);
        const old = now - 4 * trip - REMEMBERED;
        const kept = this.rates.findIndex(({ at }) => at >= old);
        this.rates.splice(0, kept < 0 ? this.rates.length : kept);
        if (mark.filled || rate * (shortest + TARGET) > this.window) {
            while ((this.rates.at(-1)?.rate ?? Number.POSITIVE_INFINITY) <= rate) this.rates.pop();
            this.rates.push({ at: now, rate });
        }
        const best = this.rates[0];
        if (best) {
            const gain = this.starting ? 2 : 1;
            const window = Math.trunc(best.rate * (shortest * gain + TARGET));
            this.window = Math.min(Math.max(window, LEAST), MOST);
        }
        this.probing = now >= this.probeAt;
    }

    /** See the road when nothing stands on it; what was known of its rate stays. */
    private look(mark: Mark, trip: number, now: number): void {
        if (!mark.alone) return;
        const longer = this.roundTrip === null || trip > this.roundTrip * BURST + TARGET;
        this.starting = this.starting || longer;
        this.roundTrip = trip;
        this.probing = false;
        this.probeAt = now + PROBE;
        this.rates = this.rates.map(({ rate }) => ({ at: now, rate }));
    }
}
