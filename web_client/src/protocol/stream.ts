// Protocol: one end of one stream – offsets, repeats, credit, FIN and RESET (docs/wire.md §5). No I/O, no clock.
//
// Mirrors protocol/stream.py: methods named after what this side does return the frame to send; methods named
// receive… take what the peer sent and throw `ProtocolError` when it may not. A call that throws changes nothing.

import { ProtocolError, RemoteError, StreamClosed } from "./errors.ts";
import type { Accept, Data, Fin, Json, Reset, Window } from "./frames.ts";

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
    private current: StreamState = "opening";

    constructor(streamId: number, { opener, window, peerWindow = 0 }: StreamOptions) {
        this.streamId = streamId;
        this.opener = opener;
        this.window = window;
        this.allowed = peerWindow;
        this.granted = window;
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
        return { kind: "accept", streamId: this.streamId, result, window: this.window };
    }

    /** Send bytes, at most `credit` of them. */
    send(payload: Uint8Array): Data {
        this.checkSending();
        const offset = this.sent;
        if (offset + payload.length > this.allowed)
            throw new StreamClosed("more bytes than the peer's window allows");
        this.sent = offset + payload.length;
        return { kind: "data", streamId: this.streamId, offset, payload };
    }

    /** End our direction whole. */
    finish(trailer: Json): Fin {
        this.checkSending();
        this.move("send-fin");
        return { kind: "fin", streamId: this.streamId, length: this.sent, trailer };
    }

    /** End what has not ended yet; null when there is nothing left to end. */
    reset(code: string, message: string): Reset | null {
        if (this.ended) return null;
        this.move("reset");
        return { kind: "reset", streamId: this.streamId, code, message };
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

    receiveAccept(frame: Accept): void {
        if (this.current === "reset") return;
        if (!this.opener || this.current !== "opening")
            throw this.broken("ACCEPT for a stream that is not being opened");
        this.move("accept");
        this.allowed = frame.window;
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

    /** Widen our credit; a limit below the present one is an old frame. */
    receiveWindow({ received, limit }: Window): void {
        if (this.current === "reset") return;
        if (this.current === "opening" || received > this.sent || received > limit)
            throw this.broken("WINDOW for bytes that were not sent");
        this.allowed = Math.max(this.allowed, limit);
    }

    /** Note that the peer's direction ended whole; a repeat changes nothing. */
    receiveFin({ length, trailer }: Fin): void {
        if (this.current === "reset" || (this.whole && length === this.received)) return;
        if (!this.receiving || length !== this.received)
            throw this.broken(`FIN after ${length} bytes while ${this.current}, ${this.received} came`);
        this.move("receive-fin");
        this.trailer = trailer;
    }

    /** End what has not ended yet. */
    receiveReset(frame: Reset): void {
        if (this.ended) return;
        this.move("reset");
        this.resetByPeer = frame;
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
