// Protocol: a whole, ordered stream of bytes each way over messages that may be lost, doubled, reordered; mirrors
// protocol/arq.py, which says why. For roads on which every message counts against a quota: few messages, paced.
//
// `poll` gives the next message that may be sent at `now`, `deadline` says when to ask again, `receive` takes a message of
// the peer and gives the bytes that are next in order. Times are seconds of any steady clock.

import { ProtocolError } from "./errors.ts";
import {
    BROADCAST_BURST,
    BROADCAST_BYTES,
    BROADCAST_RATE,
    BROADCAST_RESENDS,
    BROADCAST_WINDOW,
} from "./limits.ts";
import { DEFAULT_TIMING, type Timing } from "./timing.ts";

/** A message that is so many behind the newest is lost, not late (RFC 9002 §6.1.1). */
const REORDERED = 3;
/** Seconds in which a pace that was halved doubles again. */
const RECOVER = 30;
/** Of a message: what sums of fractions of a second may lack. */
const FRACTION = 1e-6;
/** Numbers whose time of sending is remembered. */
const TIMES_KEPT = 256;

/** What one message carries; `place` is null and `data` empty in a mere acknowledgement. */
export interface Parcel {
    readonly number: number;
    readonly seen: number;
    readonly received: number;
    readonly beyond: number;
    readonly place: number | null;
    readonly data: Uint8Array;
}

/** How many messages may go: `rate` per second, and `burst` of them at once after a rest. */
export class Pace {
    private readonly most: number;
    private readonly burst: number;
    private rate: number;
    private left: number;
    private at: number;
    private slowed: number;

    constructor(now: number, rate = BROADCAST_RATE, burst = BROADCAST_BURST) {
        this.most = this.rate = rate;
        this.burst = this.left = burst;
        this.at = this.slowed = now;
    }

    /** When the next message may go: now or later. */
    ready(now: number): number {
        this.pass(now);
        return this.left >= 1 - FRACTION ? now : now + (1 - this.left) / this.rate;
    }

    /** One message goes, if it may. */
    take(now: number): boolean {
        if (this.ready(now) > now) return false;
        this.left -= 1;
        return true;
    }

    /** The server may have had enough: half as many, and no burst; more again in time. */
    slowDown(now: number): void {
        this.pass(now);
        this.rate = Math.max(this.rate / 2, this.most / 8);
        this.left = Math.min(this.left, 1);
        this.slowed = now;
    }

    private pass(now: number): void {
        this.left = Math.min(this.left + Math.max(now - this.at, 0) * this.rate, this.burst);
        this.at = now;
        while (this.rate < this.most && now - this.slowed >= RECOVER) {
            this.rate = Math.min(2 * this.rate, this.most);
            this.slowed += RECOVER;
        }
    }
}

/** Of the stream, and not acknowledged; `number` is that of the message that carried it last. */
interface Piece {
    readonly place: number;
    readonly data: Uint8Array;
    number: number;
    lost: boolean;
}

/** One end. */
export class Arq {
    readonly pace: Pace;
    /** Pieces that were sent again. */
    resent = 0;
    private readonly timing: Timing;
    private unsent = new Uint8Array();
    /** Since when there is something to send. */
    private wanted: number | null = null;
    /** In the order of their places. */
    private pieces: Piece[] = [];
    private place = 0;
    private number = 0;
    private peerSeen = 0;
    /** When a number was sent. */
    private readonly times = new Map<number, number>();
    private resendAt: number | null = null;
    private tries = 0;
    private trip: number | null = null;
    private deviation = 0;
    private seen = 0;
    private received = 0;
    private readonly early = new Map<number, Uint8Array>();
    /** Pieces that came and are not acknowledged. */
    private untold = 0;
    private tellAt: number | null = null;

    constructor(now: number, timing: Timing = DEFAULT_TIMING) {
        this.pace = new Pace(now);
        this.timing = timing;
    }

    /** Seconds, smoothed, the peer's waits for a slot included; null before the first measure. */
    get roundTrip(): number | null {
        return this.trip;
    }

    /** Messages, those sent again and acknowledgements included. */
    get sent(): number {
        return this.number;
    }

    /** Something of the peer has come. */
    get met(): boolean {
        return this.seen > 0;
    }

    /** Nothing is to be sent, and everything that was has been acknowledged. */
    get idle(): boolean {
        return this.pieces.length === 0 && this.unsent.length === 0 && this.wanted === null;
    }

    /** The peer was there and acknowledges nothing any more. */
    get givenUp(): boolean {
        return this.met && this.tries > BROADCAST_RESENDS;
    }

    /** When `poll` is to be asked next, if nothing happens until then. */
    deadline(now: number): number | null {
        const due: number[] = this.tellAt === null ? [] : [this.tellAt];
        if (this.hasLost()) due.push(now);
        else if (this.wanted !== null && this.windowOpen) due.push(this.wanted + this.timing.broadcastSlot);
        const when = due.length === 0 ? null : Math.max(Math.min(...due), this.pace.ready(now));
        if (this.resendAt === null || (when !== null && when <= this.resendAt)) return when;
        return this.resendAt;
    }

    // Sending

    /** There is something to send: it goes in the next slot. */
    want(now: number): void {
        this.wanted ??= now;
    }

    /** How many bytes a message that goes now takes: what is most urgent is chosen at the last moment. */
    room(now: number): number {
        if (this.hasLost() || !this.slot(now) || this.pace.ready(now) > now) return 0;
        return Math.max(BROADCAST_BYTES - this.unsent.length, 0);
    }

    /** Append to the stream; what finds no room in this message waits for the next. */
    write(data: Uint8Array): void {
        this.unsent = joined(this.unsent, data);
    }

    /** The next message, when there is one that may go now. */
    poll(now: number): Parcel | null {
        this.timeOut(now);
        if (this.pace.ready(now) > now) return null;
        const again = this.pieces.find(({ lost }) => lost);
        const fresh = !again && this.hasFresh(now);
        if (!again && !fresh && (this.tellAt === null || this.tellAt > now)) return null;
        this.pace.take(now);
        this.number += 1;
        if (!again && !fresh) return this.parcel(null);
        this.remember(now);
        return this.parcel(again ? this.again(again) : this.next(now));
    }

    /** What is oldest is taken for lost: the road was away. */
    loseFirst(): void {
        const [first] = this.pieces;
        if (first) first.lost = true;
    }

    /** Something new may go. */
    private slot(now: number): boolean {
        return this.wanted !== null && this.wanted + this.timing.broadcastSlot <= now && this.windowOpen;
    }

    private get windowOpen(): boolean {
        const [first] = this.pieces;
        return !first || this.place - first.place < BROADCAST_WINDOW;
    }

    private hasFresh(now: number): boolean {
        if (!this.slot(now)) return false;
        if (this.unsent.length === 0) this.wanted = null; // there was nothing after all
        return this.unsent.length > 0;
    }

    private again(piece: Piece): Piece {
        piece.lost = false;
        piece.number = this.number;
        this.resent += 1;
        return piece;
    }

    private next(now: number): Piece {
        const data = this.unsent.slice(0, BROADCAST_BYTES);
        this.unsent = this.unsent.slice(BROADCAST_BYTES);
        const piece = { place: this.place, data, number: this.number, lost: false };
        this.place += 1;
        this.pieces.push(piece);
        if (this.unsent.length === 0) this.wanted = null;
        this.resendAt ??= now + this.wait();
        return piece;
    }

    private parcel(piece: Piece | null): Parcel {
        this.tellAt = null;
        this.untold = 0;
        let beyond = 0;
        for (const place of this.early.keys()) beyond |= 1 << (place - this.received - 1);
        return {
            number: this.number,
            seen: this.seen,
            received: this.received,
            beyond,
            place: piece?.place ?? null,
            data: piece?.data ?? new Uint8Array(),
        };
    }

    private remember(now: number): void {
        this.times.set(this.number, now);
        for (const number of this.times.keys()) {
            if (this.times.size <= TIMES_KEPT) return;
            this.times.delete(number);
        }
    }

    // Losses

    private hasLost(): boolean {
        return this.pieces.some(({ lost }) => lost);
    }

    /** Seconds without a sign until the oldest piece goes again. */
    private wait(): number {
        const { broadcastResend: first, broadcastResendCap: cap } = this.timing;
        const usual = this.trip === null ? first : this.trip + 4 * this.deviation;
        return Math.min(Math.max(usual, first) * 2 ** Math.min(this.tries, 8), cap);
    }

    private timeOut(now: number): void {
        if (this.resendAt === null || this.resendAt > now) return;
        this.tries += 1;
        this.resendAt = now + this.wait();
        this.loseFirst();
        // Of too many messages a server tells their receiver alone: by closing its channel.
        if (this.met) this.pace.slowDown(now);
    }

    // Receiving

    /** Take a message of the peer. Throws `ProtocolError` when it speaks of what was never sent. */
    receive(parcel: Parcel, now: number): Uint8Array {
        if (parcel.seen > this.number || parcel.received > this.place)
            throw new ProtocolError("it acknowledges what was never sent");
        const arrived = !this.met;
        this.seen = Math.max(this.seen, parcel.number);
        this.takeSeen(parcel.seen, now);
        this.takeReceived(parcel, now);
        // The peer has only just come: what was sent until now it has missed.
        if (arrived && parcel.seen === 0) for (const piece of this.pieces) piece.lost = true;
        return parcel.place === null ? new Uint8Array() : this.take(parcel.place, parcel.data, now);
    }

    private takeSeen(seen: number, now: number): void {
        if (seen <= this.peerSeen) return;
        this.peerSeen = seen;
        const sent = this.times.get(seen);
        if (sent !== undefined) this.measure(now - sent);
        for (const number of this.times.keys()) if (number <= seen) this.times.delete(number);
    }

    /** RFC 6298 §2. */
    private measure(trip: number): void {
        if (this.trip === null) {
            this.trip = trip;
            this.deviation = trip / 2;
            return;
        }
        this.deviation = 0.75 * this.deviation + 0.25 * Math.abs(this.trip - trip);
        this.trip = 0.875 * this.trip + 0.125 * trip;
    }

    private takeReceived(parcel: Parcel, now: number): void {
        const left = this.pieces.filter(({ place }) => !has(parcel, place));
        if (left.length < this.pieces.length) {
            this.tries = 0;
            this.resendAt = left.length > 0 ? now + this.wait() : null;
        }
        this.pieces = left;
        for (const piece of left) if (piece.number <= this.peerSeen - REORDERED) piece.lost = true;
    }

    private take(place: number, data: Uint8Array, now: number): Uint8Array {
        if (place < this.received || this.early.has(place)) {
            this.tell(now); // our acknowledgement was lost, or this came twice
            return new Uint8Array();
        }
        if (place >= this.received + BROADCAST_WINDOW)
            throw new ProtocolError(`piece ${place} is beyond the window`);
        this.early.set(place, data);
        let came = new Uint8Array();
        for (let piece = this.early.get(this.received); piece; piece = this.early.get(this.received)) {
            came = joined(came, piece);
            this.early.delete(this.received);
            this.received += 1;
        }
        this.untold += 1;
        const soon = this.early.size > 0 || this.untold >= BROADCAST_WINDOW / 4;
        this.tell(soon ? now : now + this.timing.broadcastAcknowledge);
        return came;
    }

    private tell(when: number): void {
        this.tellAt = Math.min(this.tellAt ?? when, when);
    }
}

function has({ received, beyond }: Parcel, place: number): boolean {
    const above = place - received - 1;
    return place < received || (above >= 0 && above < 31 && ((beyond >> above) & 1) === 1);
}

function joined(one: Uint8Array, other: Uint8Array): Uint8Array<ArrayBuffer> {
    const both = new Uint8Array(one.length + other.length);
    both.set(one);
    both.set(other, one.length);
    return both;
}
