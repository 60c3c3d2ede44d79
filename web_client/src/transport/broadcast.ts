// Transport, layer 0: a slow wire over a private Realtime channel, for when there is no other road; mirrors
// transport/broadcast.py. It costs the back end's quota: few messages, paced, and only the lanes a shell needs. Frames are
// sealed end to end as on the relay, when their message goes, the most urgent first.

import { InvalidInput, ProtocolError, WireClosed } from "../protocol/errors.ts";
import { decode, encode, type Frame, type Role } from "../protocol/frames.ts";
import { wireTopic } from "../protocol/ids.ts";
import type { Lane } from "../protocol/lanes.ts";
import { BROADCAST_HIGH_WATER, BROADCAST_LOW_WATER, LANE_LIMIT, MAX_FRAME } from "../protocol/limits.ts";
import type { Bytes } from "../protocol/proof.ts";
import { Handshake, makeEphemeral, type Prover, type SealedChannel } from "../protocol/seal.ts";
import type { Timing } from "../protocol/timing.ts";
import { BroadcastLink, type OwnSignaling } from "./broadcast_link.ts";
import { Farewell } from "./farewell.ts";
import { limited } from "./relay_socket.ts";
import type { Receiver, Traits, Wire, WireStats } from "./wire.ts";

export interface BroadcastOptions {
    /** Of its own; the wire closes it. */
    readonly signaling: OwnSignaling;
    readonly role: Role;
    readonly sessionId: string;
    readonly agentId: string;
    readonly prover: Prover;
    readonly timing: Timing;
}

const LANES: readonly Lane[] = ["control", "terminal-io"];
const TRAITS: Traits = { lanes: new Set(LANES), patience: 20 };

/**
 * Meet the other side of the session on its topic; the wire, when it has proved who it is.
 *
 * Both sides do this, in any order, `timing.broadcastWait` apart at most. Rejects with `Unauthorized`, `SignalingLost`,
 * `DeadlineExceeded` (nobody came), `WireClosed`, `ProtocolError`, and what the prover rejects with. `signal` ends it.
 */
export async function openBroadcast(options: BroadcastOptions, signal: AbortSignal): Promise<BroadcastWire> {
    const { signaling, role, sessionId, agentId, prover, timing } = options;
    const link = new BroadcastLink(signaling, wireTopic(agentId, sessionId), role, timing);
    const abort = () => {
        link.end("no longer wanted");
        void link.close(false);
    };
    signal.addEventListener("abort", abort, { once: true });
    try {
        const own = await makeEphemeral();
        const handshake = new Handshake(role, sessionId, agentId, own);
        const outbox: Bytes[] = [handshake.greeting()];
        link.source = async () => outbox.shift() ?? null;
        if (signal.aborted) abort();
        await link.open();
        const greeted = greet(link, outbox, handshake, prover);
        const channel = await limited(greeted, "broadcast_open", timing.broadcastOpen);
        return new BroadcastWire(link, channel, outbox);
    } catch (error) {
        void link.close(false);
        throw error;
    } finally {
        signal.removeEventListener("abort", abort);
    }
}

async function greet(
    link: BroadcastLink,
    outbox: Bytes[],
    handshake: Handshake,
    prover: Prover,
): Promise<SealedChannel> {
    const channel = await handshake.complete(await link.receive());
    outbox.push(await channel.prove(prover));
    link.offer();
    await channel.check(await link.receive(), prover);
    return channel;
}

export class BroadcastWire implements Wire {
    readonly kind = "broadcast";
    readonly traits = TRAITS;
    readonly maxFrame = MAX_FRAME;
    readonly closed: Promise<string>;

    private readonly link: BroadcastLink;
    private readonly channel: SealedChannel;
    /** The rest of the handshake. */
    private readonly outbox: Bytes[];
    private readonly roads = LANES.map((lane) => ({ lane, queue: [] as Bytes[], buffered: 0 }));
    private readonly waiting = new Set<() => void>();
    private readonly last = new Farewell();
    private started = false;
    private reason: string | null = null;
    private end: (reason: string) => void = () => undefined;
    private bytesSent = 0;
    private bytesReceived = 0;

    constructor(link: BroadcastLink, channel: SealedChannel, outbox: Bytes[]) {
        this.link = link;
        this.channel = channel;
        this.outbox = outbox;
        this.closed = new Promise((resolve) => {
            this.end = resolve;
        });
        link.source = () => this.next();
        // Once there is a reader it ends the wire by itself, after what has arrived.
        void link.closed.then((reason) => this.started || this.finish(reason));
    }

    start(receiver: Receiver): void {
        this.started = true;
        this.read(receiver).catch((error: Error) => this.fail(error));
    }

    send(lane: Lane, frame: Frame): void {
        if (this.reason !== null) throw new WireClosed(this.reason);
        const road = this.roads.find((one) => one.lane === lane);
        if (!road) throw new InvalidInput("lane", `${lane} is not carried over ${this.kind}`);
        const data = encode(frame);
        if (road.buffered + data.length > LANE_LIMIT) {
            this.finish(`more than ${LANE_LIMIT} bytes wait on the lane ${lane}`);
            throw new WireClosed(this.reason ?? "");
        }
        road.queue.push(data);
        road.buffered += data.length;
        this.link.offer();
    }

    async drained(lane: Lane): Promise<void> {
        const above = this.roads.slice(0, LANES.indexOf(lane) + 1);
        const over = (mark: number) => above.some(({ buffered }) => buffered > mark);
        if (over(BROADCAST_HIGH_WATER))
            while (this.reason === null && over(BROADCAST_LOW_WATER))
                await new Promise<void>((resolve) => this.waiting.add(resolve));
        if (this.reason !== null) throw new WireClosed(this.reason);
    }

    close(reason = "closed"): void {
        if (this.reason !== null) return;
        void this.link.close();
        this.finish(reason, true);
    }

    prepareFarewell(frame: Frame): void {
        this.last.prepare(this.channel, frame, (error) => this.fail(error));
    }

    /** What waits is lost: it is not sealed yet. */
    farewell(): boolean {
        const { sealed } = this.last;
        if (this.reason !== null || !sealed) return false;
        this.link.farewell(sealed);
        void this.link.close();
        this.finish("left", true);
        return true;
    }

    async stats(): Promise<WireStats> {
        const { roundTrip } = this.link;
        return {
            kind: this.kind,
            path: "the back end's broadcasts",
            ...(roundTrip !== null && { roundTrip: roundTrip * 1000 }),
            bytesSent: this.bytesSent,
            bytesReceived: this.bytesReceived,
            buffered: this.roads.reduce((sum, { buffered }) => sum + buffered, 0),
        };
    }

    /** What the link sends next. */
    private async next(): Promise<Uint8Array | null> {
        const first = this.outbox.shift();
        if (first) return first;
        const road = this.roads.find(({ queue }) => queue.length > 0);
        const data = road?.queue.shift();
        if (!road || !data) return null;
        road.buffered -= data.length;
        this.bytesSent += data.length;
        this.wake();
        return this.channel.seal(road.lane, data);
    }

    private async read(receiver: Receiver): Promise<void> {
        for (;;) {
            const opened = await this.channel.open(await this.link.receive());
            if (this.reason !== null) return;
            if (typeof opened === "number") throw new ProtocolError("a count of bulk, which is not carried");
            const [lane, data] = opened;
            if (!LANES.includes(lane))
                throw new ProtocolError(`a frame on lane ${lane}, which is not carried`);
            this.bytesReceived += data.length;
            const frame = decode(data);
            if (frame) receiver(lane, frame);
        }
    }

    private fail(error: Error): void {
        if (error instanceof ProtocolError) console.warn("a broadcast wire ends:", error.message);
        this.finish(error instanceof ProtocolError ? `protocol error: ${error.message}` : error.message);
    }

    /** Say that the wire is gone; the first reason stays. What waits goes, if it is flushed. */
    private finish(reason: string, flushed = false): void {
        if (this.reason !== null) return;
        this.reason = reason;
        if (!flushed) {
            for (const road of this.roads) road.buffered = road.queue.length = 0;
            void this.link.close(false);
        }
        this.wake();
        this.end(reason);
    }

    private wake(): void {
        const waiting = [...this.waiting];
        this.waiting.clear();
        for (const resolve of waiting) resolve();
    }
}
