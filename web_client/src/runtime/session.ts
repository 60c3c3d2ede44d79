// Runtime, layer 2: a session: greeting, streams, calls, and one orderly end. It outlives its wires (docs/wire.md §6).
//
//     Link ──▶ Session.receive ─┬─ Streams ──▶ Stream
//                               ├─ OutgoingCalls             all of them ──▶ Outbound ──▶ Link
//                               └─ Pulse
//
// Mirrors the client's side of runtime/session.py.

import { DeadlineExceeded, ProtocolError, SessionClosed, WireClosed } from "../protocol/errors.ts";
import { type Frame, type Json, PROTOCOL_VERSION, type Welcome } from "../protocol/frames.ts";
import type { Lane } from "../protocol/lanes.ts";
import { STREAMS_PER_SESSION } from "../protocol/limits.ts";
import type { Timing } from "../protocol/timing.ts";
import type { Wire, WireStats } from "../transport/wire.ts";
import { OutgoingCalls } from "./calls.ts";
import { Link } from "./links.ts";
import { Observable } from "./observable.ts";
import { Outbound } from "./outbound.ts";
import { Pulse } from "./pulse.ts";
import type { Stream } from "./stream.ts";
import { Streams } from "./streams.ts";

/** The feature both sides name when a session may outlive its wire. */
const RESUME = "resume";
/** Seconds that a peer which was told of the end has to close the wire: then it has heard for certain. */
const FAREWELL = 0.5;
const MESSAGE_CHARACTERS = 1024;
/** What a page says that goes away. */
const LEFT = { kind: "reset", streamId: 0, code: "closed", message: "the page was closed" } as const;

/** Started once and closed once; in between it may be without a wire (`away`), more than once. */
export type SessionState = "new" | "greeting" | "open" | "away" | "closed";

export const TRANSITIONS: Readonly<Record<SessionState, readonly SessionState[]>> = Object.freeze({
    new: ["greeting", "closed"],
    greeting: ["open", "new", "closed"],
    open: ["away", "closed"],
    away: ["open", "closed"],
    closed: [],
});

/** What ended it: this side; the peer; no wire for `timing.keep`; its one wire was lost; a fault of either side. */
export type Ending = "closed" | "peer" | "kept" | "lost" | "broken";

export interface SessionStats extends WireStats {
    readonly state: SessionState;
    /** PING to PONG through both sessions, in milliseconds. */
    readonly ping: number | null;
    /** How many wires have carried the session so far. */
    readonly wires: number;
    readonly resumable: boolean;
    /** Bytes kept to be sent over another wire. */
    readonly unacknowledged: number;
}

export interface SessionOptions {
    /** False: the session is not offered to outlive its wire. */
    readonly resume?: boolean;
}

type Timer = ReturnType<typeof setTimeout>;

export class Session {
    readonly id: string;
    /** What the agent's WELCOME said of itself. */
    peer: Json = {};
    /** Both sides can go on over another wire; known after the greeting. */
    resumable = false;
    readonly state = new Observable<SessionState>("new");
    /** There is no wire, or nothing has arrived for `timing.silence`. */
    readonly stalled = new Observable(false);
    /** Round trip in milliseconds, newest first seen. */
    readonly roundTrip = new Observable<number | null>(null);
    /** Resolves with the reason when the session has ended. Never rejects. */
    readonly closed: Promise<string>;

    /** Why it ended, in a word; null before. */
    ending: Ending | null = null;

    private readonly timing: Timing;
    private readonly features: readonly string[];
    private current: SessionState = "new";
    private over: SessionClosed | null = null;
    private resolveClosed: (reason: string) => void = () => undefined;
    private token = "";
    private wires = 0;
    private readonly links = new Set<Link>();
    /** The one that carries the session, or the last that did. */
    private link: Link | null = null;
    private readonly outbound: Outbound;
    private readonly streams: Streams;
    private readonly calls: OutgoingCalls;
    private pulse: Pulse;
    private pongs = 0;
    private ticker: Timer | undefined;
    private keeping: Timer | undefined;
    private readonly probes = new Map<number, (alive: boolean) => void>();

    constructor(id: string, timing: Timing, { resume = true }: SessionOptions = {}) {
        this.id = id;
        this.timing = timing;
        this.features = resume ? [RESUME] : [];
        this.pulse = new Pulse(timing);
        this.outbound = new Outbound((wire, error) => this.sendFailed(wire, error));
        this.streams = new Streams(this.outbound);
        this.calls = new OutgoingCalls(this.outbound);
        this.closed = new Promise((resolve) => {
            this.resolveClosed = resolve;
        });
    }

    // --- life ---

    /** Greet the agent over the first wire, at most `timing.ice`. Whatever it throws, the session has ended. */
    async start(wire: Wire): Promise<void> {
        try {
            if (this.current !== "new")
                throw new SessionClosed(this.over?.reason ?? "it was already started");
            await this.carry(wire);
        } catch (error) {
            wire.close((error as Error).message);
            this.close(`no greeting: ${(error as Error).message}`);
            throw error instanceof WireClosed ? new SessionClosed(error.message) : error;
        }
    }

    /**
     * Take the session over to `wire`, which belongs to it from now on; resolves when it carries it. Until then the
     * session goes on over the wire it has.
     *
     * Rejects `SessionClosed` when the session ends or has ended, `WireClosed` when this wire is lost or refused by the
     * peer, `DeadlineExceeded` after `timing.ice`; the last two end the wire, not the session.
     */
    async carry(wire: Wire): Promise<void> {
        if (this.over) {
            wire.close(this.over.reason);
            throw this.over;
        }
        if (this.current === "new") this.move("greeting");
        const link = new Link(wire);
        this.links.add(link);
        void wire.closed.then((reason) => this.drop(link, `the wire is gone: ${reason}`));
        wire.start((lane, frame) => this.receive(link, lane, frame));
        if (link.state === "greeting") link.send(this.hello(link));
        if (link.state === "greeting")
            link.timer = setTimeout(() => this.tooLate(link), this.timing.ice * 1000);
        await link.settled;
        if (this.over) throw this.over;
    }

    private tooLate(link: Link): void {
        const late = new DeadlineExceeded("greeting", this.timing.ice);
        this.drop(link, `no greeting: ${late.message}`, late);
    }

    /** End the session, its streams and its wires; the peer is told. Idempotent. */
    close(reason = "closed"): void {
        this.end(reason, "closed");
    }

    /** The page goes away: end at once, and tell the peer before this returns. What has not been sent is lost. */
    depart(): void {
        if (this.current === "open" && this.resumable) this.link?.wire.farewell?.();
        this.end(LEFT.message, "closed");
    }

    /** The one way out; the first reason counts. The peer is told, for it would wait for another wire otherwise. */
    private end(reason: string, ending: Ending, code = "closed"): void {
        if (this.over) return;
        const error = new SessionClosed(reason);
        this.over = error;
        this.ending = ending;
        if (ending !== "peer" && this.current === "open" && this.resumable && this.link) {
            const message = reason.slice(0, MESSAGE_CHARACTERS);
            this.link.send({ kind: "reset", streamId: 0, code, message });
            this.link.farewell = true;
        }
        this.move("closed");
        this.stopTimers();
        this.outbound.end(error);
        this.streams.end(error);
        this.calls.end(error);
        for (const link of [...this.links]) this.drop(link, reason, error);
        this.publish();
        this.resolveClosed(reason);
    }

    private stopTimers(): void {
        clearInterval(this.ticker);
        clearTimeout(this.keeping);
        for (const done of [...this.probes.values()]) done(false);
    }

    private move(state: SessionState): void {
        if (!TRANSITIONS[this.current].includes(state))
            throw new SessionClosed(`a session that is ${this.current} cannot become ${state}`);
        this.current = state;
    }

    /** Tell the watchers where the session stands, once it stands. */
    private publish(): void {
        this.stalled.set(this.current === "away" || (this.current === "open" && this.pulse.stalled));
        this.state.set(this.current);
    }

    // --- its wires ---

    private sendFailed(wire: Wire, error: WireClosed): void {
        if (this.link?.wire === wire) this.drop(this.link, `the wire is gone: ${error.message}`);
    }

    /** This wire is gone or must go; the session goes on if it can. */
    private drop(link: Link, reason: string, error: Error = new WireClosed(reason)): void {
        const carried = link.state === "carrying";
        if (!link.end(error)) return;
        this.links.delete(link);
        closeWire(link, reason);
        if (this.over) return;
        if (carried) this.away(reason);
        else if (this.current === "greeting" && this.links.size === 0) this.move("new");
        else if (this.link?.state === "carrying" && this.link.quiet && !this.isGreeting())
            this.drop(this.link, "the peer has left for a wire that is gone");
    }

    private isGreeting(): boolean {
        return [...this.links].some((link) => link.state === "greeting");
    }

    /** No wire carries the session any more. */
    private away(reason: string): void {
        if (!this.resumable) {
            this.end(reason, "lost");
            return;
        }
        this.outbound.use(null);
        this.move("away");
        this.stopTimers();
        const ended = `no wire for ${this.timing.keep} s, since ${reason}`;
        this.keeping = setTimeout(() => this.end(ended, "kept"), this.timing.keep * 1000);
        this.publish();
    }

    /** `link` carries the session from now on. */
    private goOver(link: Link): void {
        const last = this.link;
        this.link = link;
        if (this.current !== "open") this.move("open");
        this.stopTimers();
        this.wires += 1;
        link.move("carrying");
        this.outbound.use(link.wire, link.peerMaxFrame);
        if (this.resumable) link.wire.prepareFarewell?.(LEFT);
        this.pulse = new Pulse(this.timing, this.resumable, link.wire.traits?.patience);
        this.ticker = setInterval(() => this.tick(), this.pulse.interval * 1000);
        if (last?.state === "carrying") this.leave(last);
        if (link.positions) {
            this.ping();
            this.streams.resume(link.positions);
            this.calls.repeat().catch((error: Error) => {
                if (!(error instanceof SessionClosed)) throw error;
            });
        }
        this.publish();
    }

    /** Take what the peer still sends on a wire that was left, for a while. */
    private leave(link: Link): void {
        const reason = "the session goes on over another wire";
        link.leave();
        if (link.quiet) this.drop(link, reason);
        else link.timer = setTimeout(() => this.drop(link, reason), this.timing.shutdown * 1000);
    }

    // --- what programs see ---

    /** Open a stream and wait for its ACCEPT. Throws `RemoteError`, `SessionClosed`. */
    async open(service: string, method: string, params: Json, lane: Lane): Promise<Stream> {
        this.requireOpen();
        return await this.streams.open(service, method, params, lane);
    }

    /** Call `route` ("service.method"). Throws `RemoteError`, `DeadlineExceeded`, `SessionClosed`. */
    async call(route: string, params: Json, timeout = this.timing.call): Promise<Json> {
        this.requireOpen();
        return await this.calls.call(route, params, timeout);
    }

    /** Whether the present wire brings an answer within `limit` seconds; what came before does not count. */
    probe(limit = this.timing.wake): Promise<boolean> {
        if (this.current !== "open") return Promise.resolve(false);
        const timestamp = now();
        return new Promise((resolve) => {
            const done = (alive: boolean) => {
                clearTimeout(timer);
                this.probes.delete(timestamp);
                resolve(alive);
            };
            const timer = setTimeout(() => done(false), limit * 1000);
            this.probes.set(timestamp, done);
            this.ping(timestamp);
        });
    }

    async stats(): Promise<SessionStats | null> {
        if (!this.link || this.over) return null;
        return {
            ...(await this.link.wire.stats()),
            state: this.current,
            ping: this.roundTrip.value,
            wires: this.wires,
            resumable: this.resumable,
            unacknowledged: this.streams.unacknowledged,
        };
    }

    private requireOpen(): void {
        if (this.over) throw this.over;
        if (this.current !== "open" && this.current !== "away") throw new SessionClosed("it was not started");
    }

    // --- frames in ---

    /** Take one frame from a wire; whatever goes wrong ends the wire or the session, never the reader. */
    private receive(link: Link, lane: Lane, frame: Frame): void {
        if (this.over || link.state === "gone") return;
        if (link === this.link) {
            this.pulse.heard();
            this.stalled.set(false);
        }
        try {
            this.dispatch(link, lane, frame);
        } catch (error) {
            if (error instanceof SessionClosed) return; // ended while at it; the reason is known
            if (error instanceof ProtocolError) this.broken(link, error);
            else {
                console.error("a frame could not be handled", error);
                this.end("internal error", "broken", "internal");
            }
        }
    }

    private broken(link: Link, error: ProtocolError): void {
        const reason = `the peer broke the protocol: ${error.message}`;
        if (link.state === "greeting") this.drop(link, reason);
        else this.end(reason, "broken", "protocol");
    }

    private dispatch(link: Link, lane: Lane, frame: Frame): void {
        if (frame.kind === "welcome") this.receiveWelcome(link, frame);
        else if (frame.kind === "hello") throw new ProtocolError("HELLO from one that is not a client");
        else if (frame.kind === "switch") this.receiveSwitch(link);
        else if (link.state === "greeting") this.keepEarly(link, lane, frame);
        else this.take(lane, frame);
    }

    private take(lane: Lane, frame: Frame): void {
        switch (frame.kind) {
            case "ping":
                this.pongs += 1;
                return this.outbound.send("control", { kind: "pong", timestamp: frame.timestamp });
            case "pong":
                this.roundTrip.set(Math.max(0, (now() - frame.timestamp) / 1000));
                return this.probes.get(frame.timestamp)?.(true);
            case "reply":
                return this.calls.receive(frame);
            case "reset":
                if (frame.streamId === 0 && this.resumable)
                    return this.end(`closed by the peer: ${frame.message}`, "peer");
                return this.streams.receive(lane, frame);
            case "open":
            case "accept":
            case "data":
            case "window":
            case "fin":
                return this.streams.receive(lane, frame);
            default: // TELL, CALL, DATAGRAM: nothing here listens to them
        }
    }

    /** The agent may open streams at once, on lanes that overtake its WELCOME. */
    private keepEarly(link: Link, lane: Lane, frame: Frame): void {
        if (this.current !== "greeting" || frame.kind !== "open" || lane === "control")
            throw new ProtocolError(`${frame.kind.toUpperCase()} before the greeting`);
        if (link.early.length >= STREAMS_PER_SESSION)
            throw new ProtocolError("too many streams before the greeting");
        link.early.push([lane, frame]);
    }

    // --- the greeting ---

    private hello(link: Link): Frame {
        const { token } = this;
        return {
            kind: "hello",
            version: PROTOCOL_VERSION,
            sessionId: this.id,
            role: "client",
            features: this.features,
            maxFrame: link.maxFrame,
            client: { name: "doorstep-web" },
            ...(token ? { resume: { token, streams: this.streams.positions() } } : {}),
        };
    }

    private receiveWelcome(link: Link, frame: Welcome): void {
        if (frame.role !== "agent") throw new ProtocolError("WELCOME from one that is not an agent");
        if (link.state !== "greeting") throw new ProtocolError("a second greeting");
        if (frame.version !== PROTOCOL_VERSION)
            throw new ProtocolError(
                `protocol version ${frame.version}; this side speaks ${PROTOCOL_VERSION}`,
            );
        link.peerMaxFrame = frame.maxFrame;
        if (this.current === "greeting") this.begin(link, frame);
        else if (frame.resume !== undefined && frame.resume.token === this.token) {
            link.positions = frame.resume.streams;
            this.goOver(link);
        } else if (this.current === "away") this.end("the agent does not know this session any more", "peer");
        else throw new ProtocolError("WELCOME of another session");
    }

    /** The first wire: what both sides can do is known now. */
    private begin(link: Link, frame: Welcome): void {
        this.peer = frame.agent;
        this.token = frame.resume?.token ?? "";
        this.resumable = this.streams.resumable =
            this.token !== "" && this.features.includes(RESUME) && frame.features.includes(RESUME);
        this.goOver(link);
        const early = link.early;
        link.early = [];
        for (const [lane, kept] of early) this.take(lane, kept);
    }

    private receiveSwitch(link: Link): void {
        if (!this.resumable || link.state === "greeting")
            throw new ProtocolError("SWITCH without a second wire");
        link.quiet = true;
        if (link.state === "left") this.drop(link, "the session goes on over another wire");
        else if (link.state === "carrying" && !this.isGreeting())
            this.drop(link, "the peer has left the wire");
    }

    // --- the pulse ---

    private tick(): void {
        const beat = this.pulse.tick(this.outbound.frames - this.pongs);
        if (beat === "lost" && this.link) {
            const silent = this.resumable ? this.timing.silence : this.timing.giveUp;
            this.drop(this.link, `the wire is lost: nothing came for ${silent} s`);
            return;
        }
        this.publish();
        if (beat === "ping") this.ping();
    }

    private ping(timestamp = now()): void {
        this.outbound.send("control", { kind: "ping", timestamp });
    }
}

/** One that was told of the end closes the wire itself: then it has heard for certain. */
function closeWire({ wire, farewell }: Link, reason: string): void {
    if (!farewell) {
        wire.close(reason);
        return;
    }
    const timer = setTimeout(() => wire.close(reason), FAREWELL * 1000);
    void wire.closed.then(() => clearTimeout(timer));
}

/** Microseconds of our own clock, for PING. */
function now(): number {
    return Math.round(performance.now() * 1000);
}
