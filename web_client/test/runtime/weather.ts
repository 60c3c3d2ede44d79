// Tests: an agent that keeps its session over any number of wires, and wires that are cut or left at any frame.

import { WireClosed } from "../../src/protocol/errors.ts";
import {
    decode,
    encode,
    type Frame,
    type Hello,
    type Open,
    type StreamFrame,
} from "../../src/protocol/frames.ts";
import { type Lane, REQUIRED_LANES } from "../../src/protocol/lanes.ts";
import { ENDED, StreamMachine } from "../../src/protocol/stream.ts";
import type { Receiver, Wire, WireStats } from "../../src/transport/wire.ts";
import { take } from "../protocol/stream_ends.ts";

const TOKEN = "k".repeat(43);

/** One end of a wire on which lanes overtake one another; `Storm` says what happens at which frame. */
export class StormWire implements Wire {
    readonly kind = "storm";
    readonly maxFrame = 256 * 1024;
    readonly closed: Promise<string>;
    peer: StormWire | null = null;
    over = false;
    private receiver: Receiver | null = null;
    private readonly queues = new Map<Lane, Uint8Array[]>();
    private end: (reason: string) => void = () => undefined;
    private readonly storm: Storm;

    constructor(storm: Storm) {
        this.storm = storm;
        this.closed = new Promise((resolve) => {
            this.end = resolve;
        });
    }

    start(receiver: Receiver): void {
        this.receiver = receiver;
    }

    send(lane: Lane, frame: Frame): void {
        if (this.over) throw new WireClosed("closed");
        const queue = this.queues.get(lane) ?? [];
        this.queues.set(lane, queue);
        queue.push(encode(frame));
        setImmediate(() => this.deliverOne());
        this.storm.frame(this);
    }

    async drained(): Promise<void> {
        if (this.over) throw new WireClosed("closed");
    }

    /** The peer hears of it later; what is on its way to us is lost, what we sent may arrive. */
    close(reason = "closed"): void {
        if (this.over) return;
        this.over = true;
        this.end(reason);
        setTimeout(() => this.peer?.close("the peer closed"), 1);
    }

    /** Both ends at once; whatever is on its way is lost. */
    cut(): void {
        for (const one of [this, this.peer]) one?.queues.clear();
        this.close("cut");
        this.peer?.close("cut");
    }

    async stats(): Promise<WireStats> {
        return { kind: this.kind, bytesSent: 0, bytesReceived: 0 };
    }

    private deliverOne(): void {
        const lanes = REQUIRED_LANES.filter((lane) => this.queues.get(lane)?.length);
        const lane = lanes[this.storm.chance(lanes.length)];
        const bytes = lane && this.queues.get(lane)?.shift();
        const { peer } = this;
        if (!bytes || !lane || !peer || peer.over) return;
        const frame = decode(bytes);
        if (frame) peer.receiver?.(lane, frame);
    }
}

export type Disturbance = "cut" | "close" | "change" | "change and cut" | "two at once";

/** What happens at which frame, counted over all wires. */
export class Storm {
    frames = 0;
    wires: StormWire[] = [];
    disturb: (what: Disturbance, wire: StormWire) => void = () => undefined;
    private readonly at: ReadonlyMap<number, Disturbance>;
    private seed: number;

    constructor(at: ReadonlyMap<number, Disturbance>, seed = 1) {
        this.at = at;
        this.seed = seed;
    }

    pair(): [StormWire, StormWire] {
        const [left, right] = [new StormWire(this), new StormWire(this)];
        left.peer = right;
        right.peer = left;
        this.wires = [...this.wires.filter((wire) => !wire.over), left];
        return [left, right];
    }

    frame(wire: StormWire): void {
        this.frames += 1;
        const what = this.at.get(this.frames);
        if (what) this.disturb(what, wire);
    }

    /** A whole number from 0 to `below` - 1 (a linear congruential generator: the same seed, the same storm). */
    chance(below: number): number {
        this.seed = (this.seed * 1_103_515_245 + 12_345) % 2 ** 31;
        return below === 0 ? 0 : (this.seed >>> 8) % below;
    }
}

const COUNTED = Uint8Array.from({ length: 300_000 }, (_, index) => index % 251);

/** So many bytes of which none is like its neighbours. */
export function counted(count: number): Uint8Array {
    return COUNTED.subarray(0, count);
}

interface Served {
    readonly machine: StreamMachine;
    readonly lane: Lane;
    /** What is still to be sent. */
    out: Uint8Array;
    finishing: boolean;
}

/** `echo` sends back what it gets, `pour` sends `params.bytes` bytes, `hold` takes and is silent, others are refused. */
export class LastingAgent {
    /** Per call's requestId: how often it ran. */
    readonly ran = new Map<string, number>();
    readonly streams = new Map<number, Served>();
    readonly resets: string[] = [];
    closedByClient = "";
    private carrying: StormWire | null = null;
    private welcomed: { wire: StormWire; positions: Readonly<Record<number, number>> } | null = null;
    private readonly replies = new Map<string, Frame>();
    private readonly seen = new Map<Lane, number>();
    private readonly window: number;

    /** `window` is what the client may have unread with us. */
    constructor(window = 100) {
        this.window = window;
    }

    attend(wire: StormWire): void {
        wire.start((lane, frame) => this.receive(wire, lane, frame));
        void wire.closed.then(() => {
            if (this.carrying === wire) this.carrying = null;
            if (this.welcomed?.wire === wire) this.welcomed = null;
        });
    }

    /** Open a stream of our own, which a page refuses. */
    open(streamId: number): void {
        const machine = new StreamMachine(streamId, { opener: true, window: 10, replay: true });
        const lane = "terminal-io";
        machine.first = { kind: "open", streamId, service: "a", method: "b", params: {}, lane, window: 10 };
        this.streams.set(streamId, { machine, lane, out: new Uint8Array(), finishing: false });
        this.send(lane, machine.first);
    }

    private send(lane: Lane, frame: Frame): void {
        try {
            this.carrying?.send(lane, frame);
        } catch (error) {
            if (!(error instanceof WireClosed)) throw error;
        }
    }

    private receive(wire: StormWire, lane: Lane, frame: Frame): void {
        if (frame.kind === "hello") {
            this.greet(wire, frame);
            return;
        }
        if (this.welcomed?.wire === wire) this.goOver(wire, this.welcomed.positions);
        switch (frame.kind) {
            case "ping":
                return this.send("control", { kind: "pong", timestamp: frame.timestamp });
            case "call":
                return this.call(frame);
            case "open":
                return this.serve(lane, frame);
            case "accept":
            case "data":
            case "window":
            case "fin":
            case "reset":
                return this.toStream(frame);
            case "switch":
                return wire.close("left");
        }
    }

    private greet(wire: StormWire, hello: Hello): void {
        const streams = Object.fromEntries(
            [...this.streams].map(([id, { machine }]) => [id, machine.position]),
        );
        const resume = { token: TOKEN, streams };
        const { version, sessionId, maxFrame } = hello;
        if (hello.resume && hello.resume.token !== TOKEN) throw new Error("another token");
        wire.send("control", {
            kind: "welcome",
            version,
            sessionId,
            role: "agent",
            features: ["resume"],
            maxFrame,
            agent: { name: "atelier" },
            resume,
        });
        if (hello.resume) this.welcomed = { wire, positions: hello.resume.streams };
        else this.carrying = wire;
    }

    private goOver(wire: StormWire, positions: Readonly<Record<number, number>>): void {
        const last = this.carrying;
        this.carrying = wire;
        this.welcomed = null;
        if (last && !last.over) {
            last.send("control", { kind: "switch" });
            setTimeout(() => last.close("left"), 1);
        }
        for (const [id, one] of [...this.streams].sort(([a], [b]) => a - b)) {
            const { machine, lane } = one;
            machine.resume(positions[id] ?? null);
            const again = machine.firstDue;
            for (let frame = machine.pull(64); frame; frame = machine.pull(64)) this.send(lane, frame);
            const begun = machine.state !== "opening" && machine.state !== "reset";
            if (begun && !again) this.send("control", machine.acknowledge()); // it must not overtake ACCEPT
            this.after(id, one);
        }
    }

    private call(frame: Frame & { kind: "call" }): void {
        const { requestId, payload } = frame;
        let reply = this.replies.get(requestId);
        if (!reply) {
            this.ran.set(requestId, (this.ran.get(requestId) ?? 0) + 1);
            reply = { kind: "reply", requestId, payload };
            this.replies.set(requestId, reply);
        }
        this.send("control", reply);
    }

    private serve(lane: Lane, frame: Open): void {
        if (frame.streamId <= (this.seen.get(lane) ?? 0)) return; // it came before, over another wire
        this.seen.set(lane, frame.streamId);
        const { streamId, window } = frame;
        const machine = new StreamMachine(streamId, {
            opener: false,
            window: this.window,
            peerWindow: window,
            replay: true,
        });
        const one: Served = { machine, lane, out: new Uint8Array(), finishing: false };
        this.streams.set(streamId, one);
        if (!["echo", "pour", "hold"].includes(frame.method)) {
            const refusal = machine.reset("unknown-route", "no such method");
            if (refusal) this.send(lane, refusal);
            return;
        }
        this.send(lane, machine.accept({ method: frame.method }));
        if (frame.method === "pour") {
            one.out = counted(Number(frame.params.bytes));
            one.finishing = true;
        }
        this.after(streamId, one);
    }

    private toStream(frame: StreamFrame): void {
        const { kind, streamId } = frame;
        if (kind === "reset" && streamId === 0) {
            this.closedByClient = frame.message;
            return;
        }
        const one = this.streams.get(streamId);
        if (!one) {
            if (kind === "fin" || kind === "reset")
                this.send("control", { kind: "window", streamId, received: ENDED, limit: ENDED });
            return;
        }
        const { machine } = one;
        const fresh = take(machine, frame);
        if (fresh instanceof Uint8Array && fresh.length > 0) this.took(one, fresh);
        if (kind === "reset") this.resets.push(`${streamId} ${frame.code}`);
        if (kind === "fin") one.finishing = true;
        if (kind === "fin" || kind === "reset") this.send("control", machine.acknowledge());
        this.after(streamId, one);
    }

    private took(one: Served, fresh: Uint8Array): void {
        one.out = Uint8Array.from([...one.out, ...fresh]);
        const window = one.machine.consume(fresh.length);
        if (window) this.send("control", window);
    }

    /** Send what may be sent, end what is over, forget what is settled. */
    private after(id: number, one: Served): void {
        const { machine, lane } = one;
        while (one.out.length > 0 && machine.credit > 0 && !machine.behind) {
            const part = one.out.subarray(0, Math.min(machine.credit, 16_384));
            one.out = one.out.subarray(part.length);
            this.send(lane, machine.send(part));
        }
        if (one.finishing && one.out.length === 0 && machine.sending) {
            const fin = machine.finish({ sent: machine.sent });
            if (fin) this.send(lane, fin);
        }
        if (machine.settled) this.streams.delete(id);
    }
}
