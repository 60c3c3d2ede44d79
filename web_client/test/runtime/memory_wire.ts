// Tests: two ends of a wire in memory; frames go through their bytes, a task later, as on a real one.

import { WireClosed } from "../../src/protocol/errors.ts";
import { decode, encode, type Frame } from "../../src/protocol/frames.ts";
import type { Lane } from "../../src/protocol/lanes.ts";
import type { Receiver, Wire, WireStats } from "../../src/transport/wire.ts";

export class MemoryWire implements Wire {
    readonly kind = "memory";
    readonly maxFrame = 256 * 1024;
    readonly closed: Promise<string>;
    peer: MemoryWire | null = null;
    private receiver: Receiver | null = null;
    private early: [Lane, Frame][] = [];
    private end: (reason: string) => void = () => undefined;
    private over = false;

    constructor() {
        this.closed = new Promise((resolve) => {
            this.end = resolve;
        });
    }

    start(receiver: Receiver): void {
        this.receiver = receiver;
        for (const [lane, frame] of this.early.splice(0)) receiver(lane, frame);
    }

    send(lane: Lane, frame: Frame): void {
        if (this.over) throw new WireClosed("closed");
        const bytes = encode(frame);
        setImmediate(() => this.peer?.arrive(lane, bytes));
    }

    async drained(): Promise<void> {
        if (this.over) throw new WireClosed("closed");
    }

    close(reason = "closed"): void {
        if (this.over) return;
        this.over = true;
        this.end(reason);
        setImmediate(() => this.peer?.close("the peer closed"));
    }

    async stats(): Promise<WireStats> {
        return { kind: this.kind, bytesSent: 0, bytesReceived: 0 };
    }

    private arrive(lane: Lane, bytes: Uint8Array): void {
        const frame = decode(bytes);
        if (!frame || this.over) return;
        if (this.receiver) this.receiver(lane, frame);
        else this.early.push([lane, frame]);
    }
}

export function wirePair(): [MemoryWire, MemoryWire] {
    const [left, right] = [new MemoryWire(), new MemoryWire()];
    left.peer = right;
    right.peer = left;
    return [left, right];
}

/** An agent as the frames see it: greets, keeps what comes, answers as told. */
export class ScriptedAgent {
    readonly seen: Frame[] = [];
    answer: (frame: Frame, send: (frame: Frame, lane?: Lane) => void) => void = () => undefined;
    readonly send = (frame: Frame, lane: Lane = "control"): void => this.wire.send(lane, frame);
    private readonly wire: MemoryWire;

    constructor(wire: MemoryWire, greets = true) {
        this.wire = wire;
        wire.start((_lane, frame) => {
            this.seen.push(frame);
            if (frame.kind === "hello" && greets) {
                const { version, sessionId, maxFrame } = frame;
                const agent = { name: "atelier", platform: "linux", version: "0.1.0" };
                this.send({
                    kind: "welcome",
                    version,
                    sessionId,
                    role: "agent",
                    features: [],
                    maxFrame,
                    agent,
                });
            }
            this.answer(frame, this.send);
        });
    }
}
