// Transport, layer 0: a wire through a relay that cannot read it: one WebSocket, frames sealed end to end.
//
// Frames wait in a queue per lane and are sealed when they are sent, one after the other, the most urgent lane first. Of
// the bulk lanes no more is under way than the road carries (protocol/bulk_window.ts).

import { BulkTaken, BulkWindow, isBulk } from "../protocol/bulk_window.ts";
import { ProtocolError, WireClosed } from "../protocol/errors.ts";
import { decode, encode, type Frame, type Role } from "../protocol/frames.ts";
import { type Lane, REQUIRED_LANES } from "../protocol/lanes.ts";
import { LANE_HIGH_WATER, LANE_LIMIT, LANE_LOW_WATER, MAX_FRAME } from "../protocol/limits.ts";
import { Handshake, makeEphemeral, type Prover, type SealedChannel } from "../protocol/seal.ts";
import type { Timing } from "../protocol/timing.ts";
import { Farewell } from "./farewell.ts";
import { limited, type OpenSocket, RelaySocket, type Token } from "./relay_socket.ts";
import type { Receiver, Wire, WireStats } from "./wire.ts";

export interface RelayOptions {
    /** What `relayUrl` returns. */
    readonly url: string;
    readonly role: Role;
    readonly sessionId: string;
    readonly agentId: string;
    readonly token: Token;
    readonly prover: Prover;
    readonly timing: Timing;
    readonly openSocket?: OpenSocket;
}

/** Seconds that `close` gives to the last frames. */
const FLUSH = 0.2;

/**
 * Meet the other side of the session at the relay; the wire, when it has proved who it is.
 *
 * Both sides do this, in any order, `timing.relayWait` apart at most. Rejects with `ConnectFailed`, `DeadlineExceeded`
 * (nobody came), `Unauthorized`, `ProtocolError`, and what the prover rejects with. `signal` ends it at any time.
 */
export async function openRelay(options: RelayOptions, signal: AbortSignal): Promise<RelayWire> {
    const { url, role, sessionId, agentId, token, prover, timing, openSocket } = options;
    const own = await makeEphemeral();
    const joining = { sessionId, agentId, role };
    const socket = await RelaySocket.open(url, joining, token, timing, signal, openSocket);
    const abort = () => socket.close();
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) abort();
    try {
        const handshake = new Handshake(role, sessionId, agentId, own);
        const greeted = greet(socket, handshake, prover);
        return new RelayWire(socket, await limited(greeted, "relay_open", timing.relayOpen));
    } catch (error) {
        socket.close();
        throw error;
    } finally {
        signal.removeEventListener("abort", abort);
    }
}

async function greet(socket: RelaySocket, handshake: Handshake, prover: Prover): Promise<SealedChannel> {
    await socket.send(handshake.greeting());
    const channel = await handshake.complete(await socket.receive());
    await socket.send(await channel.prove(prover));
    await channel.check(await socket.receive(), prover);
    return channel;
}

/** One lane's queue. */
interface Road {
    readonly lane: Lane;
    readonly queue: Uint8Array[];
    buffered: number;
}

export class RelayWire implements Wire {
    readonly kind = "relay";
    readonly maxFrame = MAX_FRAME;
    readonly closed: Promise<string>;

    private readonly socket: RelaySocket;
    private readonly channel: SealedChannel;
    private readonly roads: readonly Road[] = REQUIRED_LANES.map((lane) => ({
        lane,
        queue: [],
        buffered: 0,
    }));
    private readonly window = new BulkWindow(now());
    private readonly taken = new BulkTaken(now());
    private tellTaken = false;
    private readonly last = new Farewell();
    private started = false;
    private reason: string | null = null;
    private flushing = false;
    private end: (reason: string) => void = () => undefined;
    private writer: (() => void) | null = null;
    private readonly waiting = new Set<() => void>();
    private bytesSent = 0;
    private bytesReceived = 0;

    constructor(socket: RelaySocket, channel: SealedChannel) {
        this.socket = socket;
        this.channel = channel;
        this.closed = new Promise((resolve) => {
            this.end = resolve;
        });
        this.write().catch((error: Error) => this.fail(error));
        // Once there is a reader it ends the wire by itself, after what has arrived.
        void socket.closed.then((reason) => this.started || this.finish(reason));
    }

    start(receiver: Receiver): void {
        this.started = true;
        this.read(receiver).catch((error: Error) => this.fail(error));
    }

    send(lane: Lane, frame: Frame): void {
        if (this.reason !== null) throw new WireClosed(this.reason);
        const data = encode(frame);
        const road = this.road(lane);
        if (road.buffered + data.length > LANE_LIMIT) {
            this.finish(`more than ${LANE_LIMIT} bytes wait on the lane ${lane}`);
            throw new WireClosed(this.reason ?? "");
        }
        road.queue.push(data);
        road.buffered += data.length;
        this.wakeWriter();
    }

    async drained(lane: Lane): Promise<void> {
        const place = REQUIRED_LANES.indexOf(lane);
        const over = (mark: number) => this.roads.slice(0, place + 1).some(({ buffered }) => buffered > mark);
        if (over(LANE_HIGH_WATER))
            while (this.reason === null && over(LANE_LOW_WATER))
                await new Promise<void>((resolve) => this.waiting.add(resolve));
        if (this.reason !== null) throw new WireClosed(this.reason);
    }

    close(reason = "closed"): void {
        if (this.reason !== null) return;
        const unsent = this.roads.some(({ buffered }) => buffered > 0);
        if (unsent) {
            this.flushing = true;
            setTimeout(() => this.release(), FLUSH * 1000);
        }
        this.finish(reason);
    }

    prepareFarewell(frame: Frame): void {
        this.last.prepare(this.channel, frame, (error) => this.fail(error));
    }

    /** What waits is lost: it is not sealed yet. */
    farewell(): boolean {
        const { sealed } = this.last;
        if (this.reason !== null || !sealed) return false;
        this.socket.send(sealed).catch((error: Error) => console.debug("farewell:", error.message));
        this.finish("left");
        return true;
    }

    async stats(): Promise<WireStats> {
        return {
            kind: this.kind,
            path: `through ${new URL(this.socket.url).host}`,
            bytesSent: this.bytesSent,
            bytesReceived: this.bytesReceived,
            buffered: this.roads.reduce((sum, { buffered }) => sum + buffered, 0),
        };
    }

    // Sending

    private async write(): Promise<void> {
        while (this.reason === null || this.flushing) {
            const road = this.nextRoad();
            if (this.tellTaken) {
                this.tellTaken = false;
                await this.socket.send(await this.channel.sealCount(this.taken.count));
            } else if (road) await this.sendNext(road);
            else if (this.flushing) this.release();
            else
                await new Promise<void>((resolve) => {
                    this.writer = resolve;
                });
        }
    }

    /** The most urgent lane that has something to send and may. */
    private nextRoad(): Road | undefined {
        const mayBulk = this.window.open;
        return this.roads.find(({ lane, queue }) => queue.length > 0 && (mayBulk || !isBulk(lane)));
    }

    private async sendNext(road: Road): Promise<void> {
        const data = road.queue.shift();
        if (!data) return;
        if (isBulk(road.lane)) this.window.sent(data.length, now());
        await this.socket.send(await this.channel.seal(road.lane, data));
        road.buffered -= data.length;
        this.bytesSent += data.length;
        this.wake();
    }

    // Receiving

    private async read(receiver: Receiver): Promise<void> {
        for (;;) {
            const opened = await this.channel.open(await this.socket.receive());
            if (this.reason !== null) return;
            if (typeof opened === "number") {
                this.window.taken(opened, now());
                this.wakeWriter();
            } else this.deliver(receiver, ...opened);
        }
    }

    private deliver(receiver: Receiver, lane: Lane, data: Uint8Array): void {
        this.bytesReceived += data.length;
        const frame = decode(data);
        if (frame) receiver(lane, frame);
        if (isBulk(lane) && this.taken.take(data.length, now())) {
            this.tellTaken = true;
            this.wakeWriter();
        }
    }

    // Life

    private fail(error: Error): void {
        if (error instanceof ProtocolError) console.warn("a relay wire ends:", error.message);
        this.finish(error instanceof ProtocolError ? `protocol error: ${error.message}` : error.message);
    }

    /** Say that the wire is gone; the first reason stays. */
    private finish(reason: string): void {
        if (this.reason !== null) return;
        this.reason = reason;
        if (!this.flushing) this.release();
        this.wake();
        this.wakeWriter();
        this.end(reason);
    }

    private release(): void {
        this.flushing = false;
        for (const road of this.roads) {
            road.queue.length = 0;
            road.buffered = 0;
        }
        this.socket.close();
        this.wakeWriter();
    }

    private road(lane: Lane): Road {
        return this.roads[REQUIRED_LANES.indexOf(lane)] as Road;
    }

    private wakeWriter(): void {
        this.writer?.();
        this.writer = null;
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
