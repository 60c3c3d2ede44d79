// Runtime, layer 2: one stream of a session. Reading gives the peer room; writing waits for room and for the lane.

import { RemoteError } from "../protocol/errors.ts";
import type { Frame, Json, StreamFrame } from "../protocol/frames.ts";
import type { Lane } from "../protocol/lanes.ts";
import type { StreamMachine } from "../protocol/stream.ts";

/** What a stream needs of its session. */
export interface StreamHost {
    /** Bytes that one DATA may have. */
    readonly chunk: number;
    /** Queue a frame, or drop it while there is no wire. Throws `SessionClosed`. */
    send(lane: Lane, frame: Frame): void;
    /** Resolves when there is a wire and the lane has room on it. Rejects `SessionClosed`. */
    room(lane: Lane): Promise<void>;
    forget(streamId: number): void;
}

export class Stream {
    readonly id: number;
    readonly lane: Lane;
    /** What the peer's ACCEPT carried. */
    result: Json = {};
    /** Resolves at ACCEPT; rejects with the peer's RESET or the session's end. */
    readonly accepted: Promise<void>;

    private readonly host: StreamHost;
    private readonly machine: StreamMachine;
    private readonly chunks: Uint8Array[] = []; // bounded by the window
    private lost: Error | null = null;
    private waiting: (() => void)[] = [];
    private turn: Promise<void> = Promise.resolve();
    private accept: () => void = () => undefined;
    private refuse: (error: Error) => void = () => undefined;

    private replays = 0;

    constructor(host: StreamHost, machine: StreamMachine, lane: Lane) {
        this.host = host;
        this.id = machine.streamId;
        this.lane = lane;
        this.machine = machine;
        this.accepted = new Promise((resolve, reject) => {
            this.accept = resolve;
            this.refuse = reject;
        });
        this.accepted.catch(() => undefined); // open() awaits it; a caller that gave up is no unhandled error
    }

    /** The peer's trailer, once `read()` returned null. */
    get trailer(): Json | null {
        return this.machine.trailer;
    }

    /** The next bytes, or null after the peer's FIN. Throws `RemoteError`, `StreamClosed`, `SessionClosed`. */
    async read(): Promise<Uint8Array | null> {
        for (;;) {
            const chunk = this.chunks.shift();
            if (chunk) {
                const window = this.machine.consume(chunk.length);
                if (window && !this.lost) this.host.send("control", window);
                return chunk;
            }
            if (this.machine.whole) return null;
            if (this.lost) throw this.lost;
            this.machine.checkReadable();
            await this.change();
        }
    }

    /** Queue `bytes` behind earlier writes; resolves when they are on the lane. Throws as `read()`. */
    write(bytes: Uint8Array): Promise<void> {
        return this.inTurn(async () => {
            for (let at = 0; at < bytes.length; ) at += await this.push(bytes.subarray(at));
        });
    }

    /** Our direction ends whole. Throws as `read()`. */
    finish(trailer: Json = {}): Promise<void> {
        return this.inTurn(async () => {
            if (this.lost) throw this.lost;
            const frame = this.machine.finish(trailer);
            if (frame) this.host.send(this.lane, frame);
            this.retire();
        });
    }

    /** End in error what has not ended yet. Idempotent. */
    reset(code: string, message: string): void {
        if (this.lost) return;
        const frame = this.machine.reset(code, message);
        if (frame) this.host.send(this.lane, frame);
        this.refuse(new RemoteError(code, message));
        this.retire();
        this.wake();
    }

    /** A frame of this stream. Throws `ProtocolError`. */
    receive(frame: StreamFrame): void {
        switch (frame.kind) {
            case "accept":
                this.machine.receiveAccept(frame);
                this.result = frame.result;
                this.accept();
                break;
            case "data": {
                const fresh = this.machine.receiveData(frame);
                if (fresh.length > 0) this.chunks.push(fresh);
                break;
            }
            case "window":
                this.machine.receiveWindow(frame);
                break;
            case "fin":
                this.machine.receiveFin(frame);
                this.acknowledge();
                break;
            case "reset":
                this.machine.receiveReset(frame);
                this.acknowledge();
                this.refuse(new RemoteError(frame.code, frame.message));
                break;
            case "open": // not ours to receive; the session answers it
        }
        this.retire();
        this.wake();
    }

    /** Both directions have ended. */
    get ended(): boolean {
        return this.machine.ended;
    }

    /** What we tell the peer that we have. */
    get position(): number {
        return this.machine.position;
    }

    /** Bytes kept for another wire. */
    get unacknowledged(): number {
        return this.machine.replay ? this.machine.sent - this.machine.acked : 0;
    }

    /**
     * Take back what the peer may not have; return whether anything is to be sent again in turn. OPEN goes at once:
     * those of later streams must not overtake it.
     */
    resume(position: number | null): boolean {
        const { machine } = this;
        machine.resume(position);
        const begun = machine.state !== "opening" && machine.state !== "reset";
        if (!begun && machine.behind) this.sendAgain();
        if (begun && !machine.firstDue) this.host.send("control", machine.acknowledge());
        this.retire();
        return machine.behind;
    }

    /** Send again what is due, chunk by chunk as the lane has room; the latest call goes on. Rejects `SessionClosed`. */
    async replay(): Promise<void> {
        const turn = ++this.replays;
        while (turn === this.replays && this.machine.behind) {
            await this.host.room(this.lane);
            this.sendAgain();
        }
    }

    /** The session is over; what has arrived can still be read. */
    lose(error: Error): void {
        if (this.lost) return;
        this.lost = error;
        this.refuse(error);
        this.host.forget(this.id);
        this.wake();
    }

    /** Send what the window and the lane allow of `bytes`; return how many went out. */
    private async push(bytes: Uint8Array): Promise<number> {
        while (this.machine.sending && this.machine.credit === 0 && !this.lost) await this.change();
        if (!this.lost) await this.host.room(this.lane);
        if (this.lost) throw this.lost;
        if (this.machine.behind) {
            this.sendAgain();
            return 0;
        }
        const part = bytes.subarray(0, Math.min(this.host.chunk, this.machine.credit));
        this.host.send(this.lane, this.machine.send(part)); // throws when our direction is no longer open
        return part.length;
    }

    private inTurn(work: () => Promise<void>): Promise<void> {
        const done = this.turn.then(work);
        this.turn = done.catch(() => undefined); // the caller sees it; the next in turn starts all the same
        return done;
    }

    private sendAgain(): void {
        const frame = this.machine.pull(this.host.chunk);
        if (frame) this.host.send(this.lane, frame);
    }

    private acknowledge(): void {
        if (this.machine.replay) this.host.send("control", this.machine.acknowledge());
    }

    private retire(): void {
        if (this.machine.settled) this.host.forget(this.id);
    }

    private change(): Promise<void> {
        return new Promise((resolve) => this.waiting.push(resolve));
    }

    private wake(): void {
        const waiting = this.waiting;
        this.waiting = [];
        for (const resolve of waiting) resolve();
    }
}
