// Transport, layer 1: the wires of one session: opened side by side, the best that is ready carries it.
//
// A way of making wires is an `Opener`; the pool runs all of them at once and knows nothing of what they do. The first wire
// that is ready carries the session; one of a more preferred kind takes over when it comes, by make-before-break, which is
// the session's business; one of a less preferred kind is not needed and closed. One that is ready waits for no worse one
// that is still being greeted: that is given up, and tried again if the better one comes to nothing. For a better one that
// is silent it waits `timing.silence`: then that is given up, and tried again beside it. Mirrors transport/pool.py.

import { ConnectFailed, DoorstepError, PeerNotTrusted, WireClosed } from "../protocol/errors.ts";
import type { Timing } from "../protocol/timing.ts";
import { Observable } from "../runtime/observable.ts";
import type { Wire } from "./wire.ts";

/** Takes the session over to a wire, which it owns from then on; rejects when it is not carried, soon if it is closed. */
export type Carry = (wire: Wire) => Promise<void>;

/** One way to a wire. */
export interface Opener {
    readonly kind: string;
    /**
     * Make a wire, hand it to `carry`, resolve when it is carried; reject with the reason when there is none. After `signal`
     * it leaves nothing behind.
     */
    open(carry: Carry, signal: AbortSignal): Promise<void>;
}

interface Running {
    readonly done: Promise<void>;
    readonly stop: AbortController;
}

interface Greeting {
    readonly rank: number;
    readonly wire: Wire;
    /** Milliseconds, of `performance.now()`. */
    readonly since: number;
    /** Runs once a worse wire waits. */
    limit?: ReturnType<typeof setTimeout>;
}

type Waits = Pick<Timing, "improveFirst" | "improveCap" | "silence">;

const UNWANTED = "no longer wanted";
const READY = "a better wire is ready";
const SILENT = "it is silent, and another one is ready";
const BETTER = "a better wire carries the session";

/** Opens wires for one session; `openers` in order of preference, `carry` is the session's. */
export class WirePool {
    /** The wire that carries the session, while it lives. */
    readonly wire = new Observable<Wire | null>(null);

    private readonly openers: readonly Opener[];
    private readonly carry: Carry;
    private readonly timing: Waits;
    private readonly running = new Map<number, Running>();
    private readonly errors = new Map<number, DoorstepError>();
    /** Of the wire that carries the session. */
    private rank: number;
    /** A wire of this rank or a worse one is of no use. */
    private toBeat: number;
    private turn: Promise<unknown> = Promise.resolve();
    /** The ranks of the wires that wait for their turn or have it. */
    private readonly ready = new Map<Wire, number>();
    private greeting: Greeting | null = null;
    private readonly overtaken = new Set<number>();
    private closed = false;
    private pause: number;
    private timer: ReturnType<typeof setTimeout> | undefined;

    /** `present` carries the session now, and is not of these ways. */
    constructor(openers: readonly Opener[], carry: Carry, timing: Waits, present: Wire | null = null) {
        this.openers = openers;
        this.carry = carry;
        this.timing = timing;
        this.rank = this.toBeat = openers.length;
        this.pause = timing.improveFirst;
        if (present) this.hold(present);
    }

    /** Why the session is not on the best wire; "" when it is, or on none. */
    get reason(): string {
        if (this.rank === 0 || !this.wire.value) return "";
        const kind = this.openers[0]?.kind ?? "";
        if (this.running.has(0)) return `${kind} is being tried`;
        return `${kind}: ${this.errors.get(0)?.message ?? "not tried yet"}`;
    }

    /**
     * Open anew by every way; resolves when one of the new wires carries the session, while the better ones go on by
     * themselves. Until then the present wire, if there is one, carries it, and goes on as if nothing had been asked when
     * this rejects: with the error of the most preferred opener when none had success, or that of one that was shown a
     * wrong key.
     */
    async open(): Promise<void> {
        if (this.closed) throw new ConnectFailed("the pool is closed");
        await this.stop();
        if (this.closed) throw new ConnectFailed("the pool is closed");
        this.toBeat = this.openers.length;
        this.pause = this.timing.improveFirst;
        try {
            await first(this.openers.map((_, each) => this.start(each)));
        } catch (error) {
            if (this.wire.value) this.toBeat = this.rank;
            throw error;
        }
    }

    /** Try the better ways now: the network has changed. */
    hurry(): void {
        this.pause = this.timing.improveFirst;
        this.tryBetter();
    }

    /** Stop opening. The wire that carries the session stays: it is the session's. */
    async close(): Promise<void> {
        this.closed = true;
        await this.stop();
    }

    private async stop(): Promise<void> {
        clearTimeout(this.timer);
        const running = [...this.running.values()];
        for (const { stop } of running) stop.abort();
        await Promise.allSettled(running.map(({ done }) => done));
    }

    private start(rank: number): Promise<void> {
        const known = this.running.get(rank);
        if (known) return known.done;
        const stop = new AbortController();
        const done = this.run(rank, stop.signal).finally(() => {
            this.running.delete(rank);
            this.later();
        });
        done.catch(() => undefined); // one that fails beside a living wire is known by `reason`
        this.running.set(rank, { done, stop });
        return done;
    }

    private async run(rank: number, signal: AbortSignal): Promise<void> {
        for (;;) {
            this.overtaken.delete(rank);
            this.errors.delete(rank);
            try {
                await this.openers[rank]?.open((wire) => this.take(rank, wire, signal), signal);
                return;
            } catch (error) {
                if (signal.aborted || !this.overtaken.has(rank)) throw this.failed(rank, error, signal);
            }
            await this.turn; // it is decided what came of the better one
            if (signal.aborted) throw new WireClosed(BETTER);
        }
    }

    /** A defect of one opener is its failure, and no other's. */
    private failed(rank: number, thrown: unknown, signal: AbortSignal): DoorstepError {
        const kind = this.openers[rank]?.kind;
        const known = thrown instanceof DoorstepError;
        const error = known
            ? thrown
            : new ConnectFailed(`internal error of the way by ${kind}: ${String(thrown)}`);
        if (signal.aborted) return error;
        if (known) console.debug(`no wire by ${kind}:`, error.message);
        else console.error(`the way by ${kind} has a defect:`, thrown);
        this.errors.set(rank, error);
        return error;
    }

    /** Carry the session over to `wire` unless what carries it now is as good; what is not carried is closed. */
    private async take(rank: number, wire: Wire, signal: AbortSignal): Promise<void> {
        const unwanted = () => wire.close(UNWANTED);
        signal.addEventListener("abort", unwanted, { once: true });
        this.ready.set(wire, rank);
        if (this.greeting) this.hasten(this.greeting, rank);
        const taken = this.turn.then(() => this.greet(rank, wire, signal));
        this.turn = taken.catch(() => undefined);
        try {
            await taken;
        } catch (error) {
            wire.close((error as Error).message);
            throw error;
        } finally {
            signal.removeEventListener("abort", unwanted);
        }
    }

    /** A wire of this rank is ready: the greeting of another gives way, or has only so much time left. */
    private hasten(greeting: Greeting, rank: number): void {
        const giveUp = (why: string) => {
            this.overtaken.add(greeting.rank);
            greeting.wire.close(why);
        };
        const left = greeting.since + this.timing.silence * 1000 - performance.now();
        if (rank < greeting.rank) giveUp(READY);
        else greeting.limit ??= setTimeout(() => giveUp(SILENT), Math.max(left, 0));
    }

    private async greet(rank: number, wire: Wire, signal: AbortSignal): Promise<void> {
        try {
            if (signal.aborted || rank >= this.toBeat) throw new WireClosed(BETTER);
            if (rank > Math.min(...this.ready.values())) {
                this.overtaken.add(rank);
                throw new WireClosed(READY);
            }
            this.greeting = { rank, wire, since: performance.now() };
            await this.carry(wire);
        } finally {
            clearTimeout(this.greeting?.limit);
            this.greeting = null;
            this.ready.delete(wire);
        }
        this.rank = this.toBeat = rank;
        this.hold(wire);
        for (const [other, { stop }] of this.running) if (other > rank) stop.abort();
    }

    private hold(wire: Wire): void {
        this.wire.set(wire);
        void wire.closed.then(() => {
            if (this.wire.value !== wire) return;
            this.rank = this.toBeat = this.openers.length;
            this.wire.set(null);
        });
    }

    /** While a lesser wire carries the session and nothing better is being tried, that is tried again, ever more seldom. */
    private later(): void {
        clearTimeout(this.timer);
        if (this.closed || this.rank === 0 || !this.wire.value || this.running.size > 0) return;
        this.timer = setTimeout(() => this.tryBetter(), this.pause * 1000);
        this.pause = Math.min(2 * this.pause, this.timing.improveCap);
    }

    private tryBetter(): void {
        clearTimeout(this.timer);
        if (this.closed || !this.wire.value) return;
        for (let rank = 0; rank < this.rank; rank++) void this.start(rank).catch(() => undefined);
    }
}

/** Resolves with the first success; rejects when there is none. */
async function first(running: readonly Promise<void>[]): Promise<void> {
    try {
        await Promise.any(running);
    } catch (error) {
        const errors = (error as AggregateError).errors as Error[];
        throw (
            errors.find((one) => one instanceof PeerNotTrusted) ??
            errors[0] ??
            new ConnectFailed("no wire was opened")
        );
    }
}
