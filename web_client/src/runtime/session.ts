// Runtime, layer 2: a session over one wire. Greets, opens streams, calls, and watches for silence.

import { DeadlineExceeded, ProtocolError, RemoteError, SessionClosed } from "../protocol/errors.ts";
import {
    type Frame,
    type Json,
    PROTOCOL_VERSION,
    type Reply,
    type StreamFrame,
    type Welcome,
} from "../protocol/frames.ts";
import type { Lane } from "../protocol/lanes.ts";
import { BULK_WINDOW, CALLS_IN_FLIGHT, STREAMS_PER_SESSION, TERMINAL_WINDOW } from "../protocol/limits.ts";
import type { Timing } from "../protocol/timing.ts";
import type { Wire, WireStats } from "../transport/wire.ts";
import { Observable } from "./observable.ts";
import { Stream } from "./stream.ts";

/** Seconds between two looks at the wire. Silence is counted in these, so a suspended page does not count its own sleep. */
const TICK = 0.5;

interface Pending {
    readonly resolve: (result: Json) => void;
    readonly reject: (error: Error) => void;
    readonly timer: ReturnType<typeof setTimeout>;
}

export interface SessionStats extends WireStats {
    /** PING to PONG through both sessions, in milliseconds. */
    readonly ping: number | null;
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

export class Session {
    readonly id: string;
    /** What the agent's WELCOME said of itself. */
    peer: Json = {};
    /** Nothing has arrived for `timing.silence`. */
    readonly stalled = new Observable(false);
    /** Round trip in milliseconds, newest first seen. */
    readonly roundTrip = new Observable<number | null>(null);
    /** Resolves with the reason when the session has ended. Never rejects. */
    readonly closed: Promise<string>;

    private readonly timing: Timing;
    private wire: Wire | null = null;
    private over: string | null = null;
    private end: (reason: string) => void = () => undefined;
    private greeted: (() => void) | null = null;
    private readonly streams = new Map<number, Stream>();
    private readonly calls = new Map<string, Pending>();
    private nextStream = 1; // the client's ids are odd
    private nextCall = 1;
    private ticker: ReturnType<typeof setInterval> | undefined;
    private silence = 0;
    private idle = 0;

    constructor(id: string, timing: Timing) {
        this.id = id;
        this.timing = timing;
        this.closed = new Promise((resolve) => {
            this.end = resolve;
        });
    }

    /** Send HELLO and wait for WELCOME, at most `timing.ice`. The wire is the session's from here on. */
    async start(wire: Wire): Promise<void> {
        this.wire = wire;
        void wire.closed.then((reason) => this.finish(reason));
        const welcome = new Promise<void>((resolve) => {
            this.greeted = resolve;
        });
        wire.start((lane, frame) => this.receive(lane, frame));
        this.send("control", {
            kind: "hello",
            version: PROTOCOL_VERSION,
            sessionId: this.id,
            role: "client",
            features: [],
            maxFrame: wire.maxFrame,
            client: { name: "doorstep-web" },
        });
        let timer: ReturnType<typeof setTimeout> | undefined;
        const limit = new Promise<never>((_, reject) => {
            timer = setTimeout(
                () => reject(new DeadlineExceeded("greeting", this.timing.ice)),
                this.timing.ice * 1000,
            );
        });
        const lost = this.closed.then((reason) => Promise.reject(new SessionClosed(reason)));
        lost.catch(() => undefined); // only the race below cares
        try {
            await Promise.race([welcome, limit, lost]);
        } catch (error) {
            this.close((error as Error).message);
            throw error;
        } finally {
            clearTimeout(timer);
        }
        if (this.over === null) this.ticker = setInterval(() => this.tick(), TICK * 1000);
    }

    /** Open a stream and wait for its ACCEPT. Throws `RemoteError`, `SessionClosed`. */
    async open(service: string, method: string, params: Json, lane: Lane): Promise<Stream> {
        if (this.over !== null) throw new SessionClosed(this.over);
        if (this.streams.size >= STREAMS_PER_SESSION)
            throw new RemoteError("busy", "too many streams are open");
        const window = lane === "file-transfer" ? BULK_WINDOW : TERMINAL_WINDOW;
        const host = {
            send: (on: Lane, frame: Frame) => this.send(on, frame),
            drained: (on: Lane) => this.drained(on),
            forget: (id: number) => void this.streams.delete(id),
        };
        const stream = new Stream(host, this.nextStream, lane, window);
        this.nextStream += 2;
        this.streams.set(stream.id, stream);
        this.send(lane, { kind: "open", streamId: stream.id, service, method, params, lane, window });
        await stream.accepted;
        return stream;
    }

    /** Call `route` ("service.method"). Throws `RemoteError`, `DeadlineExceeded`, `SessionClosed`. */
    call(route: string, params: Json, timeout = this.timing.call): Promise<Json> {
        if (this.over !== null) return Promise.reject(new SessionClosed(this.over));
        if (this.calls.size >= CALLS_IN_FLIGHT)
            return Promise.reject(new RemoteError("busy", "too many calls are waiting"));
        const requestId = `c${this.nextCall++}`;
        const timeoutMs = Math.round(timeout * 1000);
        return new Promise((resolve, reject) => {
            const timer = setTimeout(() => {
                this.calls.delete(requestId);
                reject(new DeadlineExceeded(route, timeout));
            }, timeout * 1000);
            this.calls.set(requestId, { resolve, reject, timer });
            const payload = utf8.encode(JSON.stringify(params));
            this.send("control", { kind: "call", requestId, routeKey: route, timeoutMs, payload });
        });
    }

    /** End the session, its streams and its wire. Idempotent. */
    close(reason = "closed"): void {
        this.finish(reason);
    }

    async stats(): Promise<SessionStats | null> {
        if (!this.wire || this.over !== null) return null;
        return { ...(await this.wire.stats()), ping: this.roundTrip.value };
    }

    private send(lane: Lane, frame: Frame): void {
        if (!this.wire || this.over !== null) throw new SessionClosed(this.over ?? "not started");
        this.idle = 0;
        this.wire.send(lane, frame);
    }

    private drained(lane: Lane): Promise<void> {
        return this.wire?.drained(lane) ?? Promise.reject(new SessionClosed("not started"));
    }

    private receive(_lane: Lane, frame: Frame): void {
        this.silence = 0;
        this.stalled.set(false);
        try {
            this.dispatch(frame);
        } catch (error) {
            this.finish((error as Error).message);
        }
    }

    private dispatch(frame: Frame): void {
        switch (frame.kind) {
            case "welcome":
                this.welcome(frame);
                break;
            case "ping":
                this.send("control", { kind: "pong", timestamp: frame.timestamp });
                break;
            case "pong":
                this.roundTrip.set(Math.max(0, (now() - frame.timestamp) / 1000));
                break;
            case "reply":
                this.reply(frame);
                break;
            case "accept":
            case "data":
            case "window":
            case "fin":
            case "reset":
                this.toStream(frame);
                break;
            case "open":
                this.send("control", {
                    kind: "reset",
                    streamId: frame.streamId,
                    code: "unknown-route",
                    message: "the page offers no services",
                });
                break;
            case "hello":
                throw new ProtocolError("HELLO from an agent");
            default: // TELL, CALL, DATAGRAM, SWITCH: nothing here listens to them
        }
    }

    private welcome(frame: Welcome): void {
        if (!this.greeted) return;
        if (frame.version !== PROTOCOL_VERSION)
            throw new ProtocolError(`session version ${frame.version} is not known`);
        this.peer = frame.agent;
        this.greeted();
        this.greeted = null;
    }

    /** Late frames of a stream that is over are no news; frames of one never opened break the protocol. */
    private toStream(frame: StreamFrame): void {
        const id = frame.streamId;
        const stream = this.streams.get(id);
        if (stream) stream.receive(frame);
        else if (id % 2 === 1 && id >= this.nextStream)
            throw new ProtocolError(`stream ${id} was never opened`);
    }

    private reply(frame: Reply): void {
        const pending = this.calls.get(frame.requestId);
        if (!pending) return;
        this.calls.delete(frame.requestId);
        clearTimeout(pending.timer);
        if (frame.error) pending.reject(new RemoteError(frame.error.code, frame.error.message));
        else pending.resolve(JSON.parse(text.decode(frame.payload) || "{}") as Json);
    }

    private tick(): void {
        this.silence += TICK;
        this.idle += TICK;
        if (this.silence >= this.timing.giveUp) {
            this.finish("the machine went silent");
            return;
        }
        if (this.silence >= this.timing.silence) this.stalled.set(true);
        if (this.idle < this.timing.ping) return;
        try {
            this.send("control", { kind: "ping", timestamp: now() });
        } catch (error) {
            this.finish((error as Error).message);
        }
    }

    private finish(reason: string): void {
        if (this.over !== null) return;
        this.over = reason;
        clearInterval(this.ticker);
        this.wire?.close(reason);
        const error = new SessionClosed(reason);
        for (const stream of [...this.streams.values()]) stream.lose(error);
        for (const pending of this.calls.values()) {
            clearTimeout(pending.timer);
            pending.reject(error);
        }
        this.calls.clear();
        this.end(reason);
    }
}

/** Microseconds of our own clock, for PING. */
function now(): number {
    return Math.round(performance.now() * 1000);
}
