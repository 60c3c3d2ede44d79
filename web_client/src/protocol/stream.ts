// Protocol: one end of one stream – offsets, repeats, credit, FIN and RESET (docs/wire.md §5). No I/O, no clock.
//
// Mirrors protocol/stream.py: methods named after what this side does return the frame to send; methods named
// receive… take what the peer sent and throw `ProtocolError` when it may not. A call that throws changes nothing.
//
// Of a session that can resume (`replay`) a machine also keeps what the peer has not acknowledged: the frame that
// opened it, the bytes from `acked` on (never more than the peer's window), FIN and RESET. On another wire `resume()`
// takes them back and `pull()` gives them out, in order. The peer acknowledges by positions: the bytes it has received
// without a gap, one more once it has our FIN, and `ENDED` once both directions have ended or the stream was reset.

import { ProtocolError, RemoteError, StreamClosed } from "./errors.ts";
import type { Accept, Data, Fin, Json, Open, Reset, Window } from "./frames.ts";
import { Kept } from "./kept.ts";

/** The position of one who needs nothing further of this stream. */
export const ENDED = Number.MAX_SAFE_INTEGER;

export type StreamState = "opening" | "open" | "local-finished" | "peer-finished" | "finished" | "reset";
export type StreamEvent = "accept" | "send-fin" | "receive-fin" | "reset";

/** The whole machine. An event that is not listed for a state is refused and changes nothing. */
export const TRANSITIONS: Readonly<Record<StreamState, Readonly<Partial<Record<StreamEvent, StreamState>>>>> =
    Object.freeze({
        opening: { accept: "open", reset: "reset" },
        open: { "send-fin": "local-finished", "receive-fin": "peer-finished", reset: "reset" },
        "local-finished": { "receive-fin": "finished", reset: "reset" },
        "peer-finished": { "send-fin": "finished", reset: "reset" },
        finished: {},
        reset: {},
    });

export interface StreamOptions {
    readonly opener: boolean;
    /** What the peer may send before our first WINDOW. */
    readonly window: number;
    /** What OPEN carried; 0 for the opener until ACCEPT. */
    readonly peerWindow?: number;
    /** The session can resume. */
    readonly replay?: boolean;
}

export class StreamMachine {
    readonly streamId: number;
    readonly opener: boolean;
    readonly window: number;
    sent = 0;
    /** Bytes we may have sent before the next WINDOW. */
    allowed: number;
    /** Bytes received without a gap. */
    received = 0;
    /** Bytes the reader has taken. */
    consumed = 0;
    /** Bytes the peer may have sent before our next WINDOW. */
    granted: number;
    /** What the peer's FIN carried; null until then. */
    trailer: Json | null = null;
    resetByPeer: Reset | null = null;
    readonly replay: boolean;
    /** The frame that began our side, while the peer may not have it; an opener sets it. */
    first: Open | Accept | null = null;
    /** That frame is to be sent again. */
    firstDue = false;
    private current: StreamState = "opening";
    private readonly kept = new Kept();
    /** What the present wire has been given; below `sent` only after `resume()`. */
    private resent = 0;
    private fin: Fin | null = null;
    private finAcked = false;
    private finDue = false;
    private ourReset: Reset | null = null;
    private endAcked = false;
    private resetDue = false;

    constructor(streamId: number, { opener, window, peerWindow = 0, replay = false }: StreamOptions) {
        this.streamId = streamId;
        this.opener = opener;
        this.window = window;
        this.allowed = peerWindow;
        this.granted = window;
        this.replay = replay;
    }

    get state(): StreamState {
        return this.current;
    }

    /** No further frame is expected in either direction. */
    get ended(): boolean {
        return this.current === "finished" || this.current === "reset";
    }

    /** The peer's direction ended whole; a later RESET does not change that. */
    get whole(): boolean {
        return this.trailer !== null;
    }

    /** It has ended, and the peer knows: the machine can be forgotten. */
    get settled(): boolean {
        if (!this.replay || !this.ended) return this.ended;
        return this.endAcked || (this.finAcked && this.current === "finished");
    }

    /** What we acknowledge of the peer's direction. */
    get position(): number {
        return this.ended ? ENDED : this.received + (this.whole ? 1 : 0);
    }

    /** Bytes the peer has acknowledged; those from here to `sent` are kept. */
    get acked(): number {
        return this.kept.start;
    }

    /** There is something to `pull()` before anything new may be sent. */
    get behind(): boolean {
        return this.replay && (this.firstDue || this.resent < this.sent || this.finDue || this.resetDue);
    }

    /** Our direction is open. */
    get sending(): boolean {
        return this.current === "open" || this.current === "peer-finished";
    }

    /** How many bytes may be sent now. */
    get credit(): number {
        return this.sending ? this.allowed - this.sent : 0;
    }

    accept(result: Json): Accept {
        this.checkAlive();
        if (this.opener || this.current !== "opening")
            throw new StreamClosed("the stream was already accepted");
        this.move("accept");
        const frame: Accept = { kind: "accept", streamId: this.streamId, result, window: this.window };
        if (this.replay) this.first = frame;
        return frame;
    }

    /** Send bytes, at most `credit` of them. */
    send(payload: Uint8Array): Data {
        this.checkSending();
        const offset = this.sent;
        if (offset + payload.length > this.allowed)
            throw new StreamClosed("more bytes than the peer's window allows");
        if (this.replay) {
            if (this.behind) throw new StreamClosed("what the last wire lost goes first");
            this.kept.push(payload);
            this.resent = offset + payload.length;
        }
        this.sent = offset + payload.length;
        return { kind: "data", streamId: this.streamId, offset, payload };
    }

    /** End our direction whole; null when `pull()` will give the frame in its turn. */
    finish(trailer: Json): Fin | null {
        this.checkSending();
        this.move("send-fin");
        const frame: Fin = { kind: "fin", streamId: this.streamId, length: this.sent, trailer };
        if (this.replay) {
            this.finDue = this.behind;
            this.fin = frame;
        }
        return this.finDue ? null : frame;
    }

    /** End what has not ended yet; null when nothing is left to end or `pull()` will give it. */
    reset(code: string, message: string): Reset | null {
        if (this.ended) return null;
        this.move("reset");
        const frame: Reset = { kind: "reset", streamId: this.streamId, code, message };
        if (this.replay) {
            if (this.fin === null) this.drop(this.sent); // a direction that ended whole stays whole
            this.resetDue = this.behind;
            this.ourReset = frame;
        }
        return this.resetDue ? null : frame;
    }

    /** Note that the reader took `count` bytes; the WINDOW when half the window has been consumed. */
    consume(count: number): Window | null {
        if (this.consumed + count > this.received)
            throw new StreamClosed("more bytes consumed than were received");
        this.consumed += count;
        const limit = this.consumed + this.window;
        if (!this.receiving || 2 * (limit - this.granted) < this.window || limit === this.granted)
            return null;
        this.granted = limit;
        return { kind: "window", streamId: this.streamId, received: this.received, limit };
    }

    /** The WINDOW that states our position: due after FIN, RESET and a change of wires. */
    acknowledge(): Window {
        const { position } = this;
        const limit = Math.max(this.granted, position);
        return { kind: "window", streamId: this.streamId, received: position, limit };
    }

    // --- on another wire ---

    /** Everything the peer may not have is to be sent again; `position` is what it said it has. */
    resume(position: number | null = null): void {
        if (position !== null) {
            this.checkPosition(position);
            this.acknowledged(position);
        }
        // An acceptor that heard of the opener since: it must have our ACCEPT.
        const heard = !this.opener && (this.received > 0 || this.acked > 0 || this.whole);
        this.firstDue = this.first !== null && !heard;
        this.resent = this.acked;
        this.finDue = this.fin !== null && !this.finAcked;
        this.resetDue = this.ourReset !== null && !this.endAcked;
    }

    /** The next frame to send again, with at most `most` bytes; null when we are not behind. */
    pull(most: number): Open | Accept | Data | Fin | Reset | null {
        if (this.firstDue) {
            this.firstDue = false;
            return this.first;
        }
        if (this.resent < this.sent) {
            const offset = this.resent;
            this.resent = Math.min(offset + most, this.sent);
            const payload = this.kept.slice(offset, this.resent);
            return { kind: "data", streamId: this.streamId, offset, payload };
        }
        if (this.finDue) {
            this.finDue = false;
            return this.fin;
        }
        if (this.resetDue) {
            this.resetDue = false;
            return this.ourReset;
        }
        return null;
    }

    private acknowledged(position: number): void {
        if (position === ENDED) this.endAcked = true;
        if (position > this.sent) {
            this.finAcked = this.fin !== null;
            this.finDue = false;
        }
        this.drop(Math.min(position, this.sent));
        if (!this.endAcked) return;
        this.first = null;
        this.firstDue = this.finDue = this.resetDue = false;
    }

    /** Keep only the bytes from `until` on. */
    private drop(until: number): void {
        this.kept.drop(until);
        this.resent = Math.max(this.resent, this.acked);
    }

    private checkPosition(position: number): void {
        const most = this.sent + (this.fin === null ? 0 : 1);
        if (position > most && !(this.replay && position === ENDED))
            throw this.broken("WINDOW for bytes that were not sent");
    }

    // --- what the peer sent ---

    receiveAccept(frame: Accept): void {
        const again = this.replay && this.opener && this.current !== "opening"; // over another wire
        if (this.current === "reset" || again) return;
        if (!this.opener || this.current !== "opening")
            throw this.broken("ACCEPT for a stream that is not being opened");
        this.move("accept");
        this.allowed = frame.window;
        this.first = null;
    }

    /** Return the bytes that are new, without those a repeat brings again. */
    receiveData({ offset, payload }: Data): Uint8Array {
        const end = offset + payload.length;
        if (end <= this.received) return payload.subarray(payload.length);
        if (this.current === "reset") return payload.subarray(payload.length);
        if (!this.receiving) throw this.broken(`DATA while ${this.current}`);
        if (offset > this.received) throw this.broken(`a gap before offset ${offset}`);
        if (end > this.granted) throw this.broken("more bytes than the window allows");
        const fresh = payload.subarray(this.received - offset);
        this.received = end;
        return fresh;
    }

    /** Widen our credit and forget what is acknowledged; what is below the present is an old frame. */
    receiveWindow({ received, limit }: Window): void {
        if (this.current !== "reset") {
            if (this.current === "opening" || received > limit)
                throw this.broken("WINDOW for bytes that were not sent");
            this.checkPosition(received);
        }
        if (this.replay) this.acknowledged(received);
        if (received !== ENDED) this.allowed = Math.max(this.allowed, limit);
    }

    /** Note that the peer's direction ended whole; a repeat changes nothing. */
    receiveFin({ length, trailer }: Fin): void {
        if (this.current === "reset" || (this.whole && length === this.received)) return;
        if (!this.receiving || length !== this.received)
            throw this.broken(`FIN after ${length} bytes while ${this.current}, ${this.received} came`);
        this.move("receive-fin");
        this.trailer = trailer;
    }

    /** End what has not ended yet; the peer needs nothing more of us. */
    receiveReset(frame: Reset): void {
        if (!this.ended) {
            this.move("reset");
            this.resetByPeer = frame;
        }
        this.acknowledged(ENDED);
    }

    /** Throw why no further byte will come, unless the peer's direction is open or ended whole. */
    checkReadable(): void {
        if (!this.whole) this.checkAlive();
    }

    private get receiving(): boolean {
        return this.current === "open" || this.current === "local-finished";
    }

    private move(event: StreamEvent): void {
        const next = TRANSITIONS[this.current][event];
        if (!next) throw new StreamClosed(`${event} while ${this.current}`);
        this.current = next;
    }

    private broken(message: string): ProtocolError {
        return new ProtocolError(`stream ${this.streamId}: ${message}`);
    }

    private checkAlive(): void {
        if (this.resetByPeer) throw new RemoteError(this.resetByPeer.code, this.resetByPeer.message);
        if (this.current === "reset") throw new StreamClosed("this side has reset the stream");
    }

    private checkSending(): void {
        if (this.sending) return;
        this.checkAlive();
        throw new StreamClosed(
            this.current === "opening"
                ? "the stream has not been accepted yet"
                : "this side has already finished the stream",
        );
    }
}
