// Transport, below the broadcast wire: records, whole and in order, over one private Realtime channel; mirrors
// transport/broadcast_link.py. The adapter around `Arq`: something happened → what may be sent goes → one timer.

import { Arq } from "../protocol/arq.ts";
import { dump, EVENT, type Letter, Party, parse, Records, record } from "../protocol/broadcast.ts";
import { DeadlineExceeded, MalformedMessage, WireClosed } from "../protocol/errors.ts";
import type { Role } from "../protocol/frames.ts";
import { LANE_LIMIT } from "../protocol/limits.ts";
import type { Bytes } from "../protocol/proof.ts";
import type { Timing } from "../protocol/timing.ts";
import type { Channel, ChannelState, Signaling } from "./signaling.ts";

/** Signaling on a connection of its own: a join that is refused freezes no other channel. */
export interface OwnSignaling extends Signaling {
    close(): Promise<void>;
}

/** Gives the next record to send, if there is one. */
export type Source = () => Promise<Uint8Array | null>;

/** Broadcasts whose acknowledgement by the server is awaited; more are not sent meanwhile. */
const UNDER_WAY = 16;
/** Seconds that the last records get to arrive. */
const FLUSH = 0.5;
const GONE = "the connection was closed";

/** One end. What is sent is pulled from `source` at the last moment; `offer()` says there is some. */
export class BroadcastLink {
    /** Resolves with the reason when nothing is sent or received any more. Never rejects. */
    readonly closed: Promise<string>;
    source: Source = async () => null;
    /** Losses of the channel. */
    losses = 0;

    private readonly signaling: OwnSignaling;
    private readonly topic: string;
    private readonly timing: Timing;
    private readonly party: Party;
    private readonly arq: Arq;
    private readonly records = new Records();
    private readonly arrived: Bytes[] = [];
    private arrivedBytes = 0;
    private channel: Channel | null = null;
    private joined = false;
    private underWay = 0;
    private reason: string | null = null;
    private sending = false;
    private again = false;
    private timer: ReturnType<typeof setTimeout> | undefined;
    private readonly waiting = new Set<() => void>();
    private resolveClosed: (reason: string) => void = () => undefined;
    private release: Promise<void> | null = null;

    constructor(signaling: OwnSignaling, topic: string, role: Role, timing: Timing) {
        this.signaling = signaling;
        this.topic = topic;
        this.timing = timing;
        this.party = new Party(role, randomName());
        this.arq = new Arq(now(), timing);
        this.closed = new Promise((resolve) => {
            this.resolveClosed = resolve;
        });
    }

    get roundTrip(): number | null {
        return this.arq.roundTrip;
    }

    /** Join the topic and wait for the peer. Rejects `Unauthorized`, `SignalingLost`, `DeadlineExceeded`, `WireClosed`. */
    async open(): Promise<void> {
        const spec = {
            topic: this.topic,
            onMessage: (event: string, payload: unknown) => this.message(event, payload),
            onState: (state: ChannelState) => this.state(state),
        };
        if (this.reason !== null) throw new WireClosed(this.reason);
        const channel = await this.signaling.join(spec, this.timing.join);
        if (this.reason !== null) {
            await channel.leave();
            throw new WireClosed(this.reason);
        }
        this.channel = channel;
        this.joined = true;
        this.offer();
        const until = now() + this.timing.broadcastWait;
        const timer = setTimeout(() => this.wake(), this.timing.broadcastWait * 1000 + 1);
        try {
            while (!this.arq.met) {
                if (this.reason !== null) throw new WireClosed(this.reason);
                if (now() >= until) throw new DeadlineExceeded("broadcast_wait", this.timing.broadcastWait);
                await this.news();
            }
        } finally {
            clearTimeout(timer);
        }
    }

    /** The source has something. */
    offer(): void {
        this.arq.want(now());
        this.send();
    }

    /** Send the last record before this returns, with what is before it in the stream, as far as the pace allows. */
    farewell(data: Bytes): void {
        const at = now();
        const slot = at + this.timing.broadcastSlot;
        this.arq.want(at);
        this.arq.write(record(data));
        for (let parcel = this.arq.poll(slot); parcel; parcel = this.arq.poll(slot))
            this.post(this.party.letter(parcel));
    }

    /** The next record, after all that has arrived. Rejects `WireClosed`. */
    async receive(): Promise<Bytes> {
        for (;;) {
            const data = this.arrived.shift();
            if (data) {
                this.arrivedBytes -= data.length;
                return data;
            }
            if (this.reason !== null) throw new WireClosed(this.reason);
            await this.news();
        }
    }

    /** Nothing more is sent or received; the first reason stays. */
    end(reason: string): void {
        if (this.reason !== null) return;
        this.reason = reason;
        clearTimeout(this.timer);
        this.resolveClosed(reason);
        this.wake();
    }

    /** Give the peer what it has not got yet, say goodbye, leave; `flush` for a moment at most. Idempotent. */
    close(flush = true): Promise<void> {
        this.release ??= this.leave(flush);
        return this.release;
    }

    private async leave(flush: boolean): Promise<void> {
        if (flush && this.joined) await this.flush();
        if (this.reason === null && this.joined && this.arq.met) {
            const nothing = { seen: 0, received: 0, beyond: 0, place: null, data: new Uint8Array() };
            const letter = this.party.letter({ number: this.arq.sent + 1, ...nothing }, GONE);
            this.channel?.send(EVENT, dump(letter)).catch(() => undefined);
        }
        this.end(GONE);
        await this.signaling.close();
    }

    private async flush(): Promise<void> {
        const until = now() + FLUSH;
        const timer = setTimeout(() => this.wake(), FLUSH * 1000 + 1);
        this.offer();
        while (this.reason === null && !this.arq.idle && now() < until) await this.news();
        clearTimeout(timer);
    }

    // Sending

    /** Send what may go, and again when there may be more. One at a time: records are sealed in their order. */
    private send(): void {
        if (this.sending) {
            this.again = true;
            return;
        }
        this.sending = true;
        this.sendDue()
            .catch((error: Error) => this.end(error.message))
            .finally(() => {
                this.sending = false;
                if (this.again) {
                    this.again = false;
                    this.send();
                }
            });
    }

    private async sendDue(): Promise<void> {
        clearTimeout(this.timer);
        while (this.joined && this.reason === null && this.underWay < UNDER_WAY) {
            const at = now();
            const more = await this.fill(at);
            const parcel = this.arq.poll(at);
            if (this.arq.givenUp) return this.end("the peer does not answer any more");
            if (!parcel) return this.rest(at);
            if (more) this.arq.want(at);
            this.post(this.party.letter(parcel));
        }
    }

    /** Put into the message that goes now what fits; whether there may be more. */
    private async fill(at: number): Promise<boolean> {
        let filled = false;
        while (this.arq.room(at) > 0) {
            const data = await this.source();
            if (!data) return false;
            this.arq.write(record(data));
            filled = true;
        }
        return filled;
    }

    private rest(at: number): void {
        if (this.arq.idle) this.wake();
        const deadline = this.arq.deadline(at);
        if (deadline === null || this.reason !== null) return;
        this.timer = setTimeout(() => this.send(), Math.max(deadline - now(), 0) * 1000 + 1);
    }

    /** Let a broadcast go; one that fails is one that was lost. */
    private post(letter: Letter): void {
        this.underWay += 1;
        const sent = this.channel?.send(EVENT, dump(letter)) ?? Promise.resolve();
        sent.catch((error: Error) => console.debug("a broadcast is lost:", error.message)).finally(() => {
            this.underWay -= 1;
            if (this.reason === null) this.send();
        });
    }

    // Receiving

    private message(event: string, payload: unknown): void {
        if (event !== EVENT || this.reason !== null) return;
        try {
            const letter = parse(payload);
            if (this.party.concerns(letter)) this.take(letter);
        } catch (error) {
            if (error instanceof MalformedMessage) console.warn("a broadcast is dropped:", error.message);
            else this.end(`protocol error: ${(error as Error).message}`);
        }
    }

    private take(letter: Letter): void {
        if (letter.bye !== null) return this.end(`the peer says: ${letter.bye}`);
        for (const data of this.records.feed(this.arq.receive(letter, now()))) {
            this.arrived.push(data);
            this.arrivedBytes += data.length;
        }
        if (this.arrivedBytes > LANE_LIMIT) this.end("more has come than is read");
        this.wake();
        this.send();
    }

    /** The channel comes and goes, the stream stays; what was under way is sent again. */
    private state(state: ChannelState): void {
        this.joined = state === "joined";
        if (state === "left") this.end("the channel was left");
        else if (state === "lost") {
            this.losses += 1;
            this.arq.pace.slowDown(now()); // it may be that there was too much
        } else this.arq.loseFirst();
        this.send();
    }

    private news(): Promise<void> {
        return new Promise((resolve) => this.waiting.add(resolve));
    }

    private wake(): void {
        const waiting = [...this.waiting];
        this.waiting.clear();
        for (const resolve of waiting) resolve();
    }
}

function now(): number {
    return performance.now() / 1000;
}

function randomName(): string {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
