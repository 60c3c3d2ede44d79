// Client: one connection to one agent. Receive → machine → run its effects → re-arm the one timer.

import { Attempt, type AttemptEffect, type AttemptEvent, type AttemptState } from "../protocol/attempt.ts";
import { type DoorstepError, MalformedMessage, PeerNotTrusted, Unauthorized } from "../protocol/errors.ts";
import { signalingTopic } from "../protocol/ids.ts";
import { dump, type IceServer, type Message, type ProofFields, parse } from "../protocol/signaling.ts";
import type { Timing } from "../protocol/timing.ts";
import { Observable, type Unwatch } from "../runtime/observable.ts";
import { Session } from "../runtime/session.ts";
import type { Channel, Signaling } from "../transport/signaling.ts";
import type { Wire } from "../transport/wire.ts";
import type { Trust } from "./trust.ts";

/** What a connection needs of the channel of all agents. */
export interface Knocking {
    joined(): Promise<void>;
    send(event: string, payload: Record<string, unknown>): Promise<void>;
    listen(listener: (event: string, payload: unknown) => void): Unwatch;
}

/** What a connection needs of a peer; `Peer` in transport/webrtc.ts is the real one. */
export interface PeerLike {
    onCandidate: ((candidate: { candidate: string; sdpMid: string | null }) => void) | null;
    createOffer(): Promise<string>;
    applyAnswer(sdp: string): Promise<void>;
    addCandidate(candidate: { candidate: string; sdpMid: string | null }): Promise<void>;
    wire(): Promise<Wire>;
    close(): void;
}

export interface ConnectionOptions {
    readonly agentId: string;
    readonly agents: Knocking;
    readonly signaling: Signaling;
    readonly iceServers: readonly IceServer[];
    readonly timing: Timing;
    /** Without it this is a plain client: it proves nothing and believes every agent. */
    readonly makeTrust?: (sessionId: string) => Trust;
    readonly makePeer: (iceServers: readonly IceServer[]) => PeerLike;
}

export interface Status {
    readonly state: AttemptState;
    /** From 1; 0 before the first. */
    readonly attempt: number;
    readonly reason: string;
}

export class Connection {
    readonly agentId: string;
    readonly status = new Observable<Status>({ state: "idle", attempt: 0, reason: "" });
    /** The live session, while there is one. */
    readonly session = new Observable<Session | null>(null);
    /** Why connecting ended for good; null while it is going on or up. */
    readonly error = new Observable<DoorstepError | null>(null);

    readonly trust: Trust | undefined;

    private readonly options: ConnectionOptions;
    private readonly machine: Attempt;
    private readonly sessionId = randomId();
    private peer: PeerLike | null = null;
    /** Candidates follow the message they belong to. */
    private proving: Promise<unknown> = Promise.resolve();
    private channel: Channel | null = null;
    private timer: ReturnType<typeof setTimeout> | undefined;
    private unlisten: Unwatch | null = null;
    private queue: AttemptEvent[] = [];
    private running = false;
    private pausing = false;

    constructor(options: ConnectionOptions) {
        this.options = options;
        this.agentId = options.agentId;
        this.trust = options.makeTrust?.(this.sessionId);
        this.machine = new Attempt(options.agentId, this.sessionId, { timing: options.timing });
    }

    /** Start connecting; nothing happens when that is going on or done. */
    connect(): void {
        const { state } = this.machine;
        if (state === "failed" && !this.machine.outcome?.retryable) this.dispatch({ type: "stop" });
        if (this.machine.state !== "idle") return;
        this.error.set(null);
        this.unlisten ??= this.options.agents.listen((event, payload) => this.receive(event, payload));
        this.dispatch({ type: "connect" });
    }

    /** Release everything; `connect()` may follow. Idempotent. */
    close(): void {
        this.unlisten?.();
        this.unlisten = null;
        this.dispatch({ type: "stop" });
    }

    private receive(event: string, payload: unknown): void {
        let message: Message;
        try {
            message = parse(event, payload);
        } catch (error) {
            if (!(error instanceof MalformedMessage)) throw error;
            console.warn("signaling message dropped:", error.message);
            return;
        }
        this.dispatch(message);
    }

    private dispatch(event: AttemptEvent): void {
        this.queue.push(event);
        if (this.running) return;
        this.running = true;
        try {
            for (let next = this.queue.shift(); next; next = this.queue.shift()) this.step(next);
        } finally {
            this.running = false;
        }
    }

    private step(event: AttemptEvent): void {
        this.machine.handle(event, now());
        this.drain();
    }

    private drain(): void {
        for (const effect of this.machine.effects()) this.run(effect);
        this.rearm();
    }

    /** One timer: the pause before a retry, or the machine's own deadline. */
    private rearm(): void {
        const { state, outcome } = this.machine;
        if (state === "failed") {
            clearTimeout(this.timer);
            if (outcome?.retryable) this.dispatch({ type: "pause" });
            else this.error.set(outcome?.error ?? null);
            return;
        }
        if (state === "retrying") {
            if (this.pausing) return;
            this.pausing = true;
            clearTimeout(this.timer);
            this.timer = setTimeout(
                () => {
                    this.pausing = false;
                    this.dispatch({ type: "retry" });
                },
                (outcome?.pause ?? 0) * 1000,
            );
            return;
        }
        this.pausing = false;
        clearTimeout(this.timer);
        const deadline = this.machine.deadline();
        if (deadline === null) return;
        this.timer = setTimeout(
            () => {
                this.machine.handleTimer(now());
                this.drain();
            },
            Math.max(0, deadline - now()) * 1000 + 1,
        );
    }

    private run(effect: AttemptEffect): void {
        switch (effect.type) {
            case "report":
                this.status.set({ state: effect.state, attempt: effect.attempt, reason: effect.reason });
                return;
            case "ignored":
                console.debug(`${effect.event} ignored: ${effect.why}`);
                return;
            case "join-agents":
                return this.onChannel(effect.serial, this.options.agents.joined(), "agents-joined");
            case "join-signaling":
                return this.onChannel(effect.serial, this.joinSignaling(effect.serial), "signaling-joined");
            case "send-request": {
                const { message } = effect;
                const sent = this.proved(message, this.trust?.request(message), (proved) =>
                    this.options.agents.send(...dump(proved)),
                );
                return this.onChannel(effect.serial, sent, "request-sent");
            }
            case "send-offer": {
                const { message, proof } = effect;
                const sent = this.proved(message, this.trust?.offer(message, proof), (proved) =>
                    this.broadcast(proved),
                );
                return this.onChannel(effect.serial, sent, "offer-sent");
            }
            case "send-candidate":
                this.proving
                    .then(() => this.broadcast(effect.message))
                    .catch((error: Error) => console.debug(error.message));
                return;
            case "create-offer":
                void this.createOffer(effect.serial, effect.iceServers ?? this.options.iceServers);
                return;
            case "apply-answer":
                void this.applyAnswer(effect.serial, effect.sdp, effect.proof);
                return;
            case "add-candidate":
                void this.peer?.addCandidate(effect.candidate);
                return;
            case "leave-signaling":
                void this.channel?.leave();
                this.channel = null;
                return;
            case "close-peer":
                this.session.value?.close("closed by this page");
                this.session.set(null);
                this.peer?.close();
                this.peer = null;
        }
    }

    private onChannel(
        serial: number,
        work: Promise<unknown>,
        type: "agents-joined" | "signaling-joined" | "request-sent" | "offer-sent",
    ): void {
        work.then(
            () => this.dispatch({ type, serial }),
            (error: Error) => {
                if (error instanceof PeerNotTrusted) return this.distrust(serial, error);
                const type = error instanceof Unauthorized ? "denied" : "channel-lost";
                this.dispatch({ type, serial, reason: error.message });
            },
        );
    }

    private proved<M>(plain: M, proof: Promise<M> | undefined, send: (message: M) => Promise<void>) {
        if (!proof) return send(plain);
        const sent = proof.then(send);
        this.proving = sent.catch(() => undefined); // told by the caller's promise
        return sent;
    }

    private distrust(serial: number, { message, known, shown }: PeerNotTrusted): void {
        this.dispatch({ type: "not-trusted", serial, reason: message, known, shown });
    }

    private async joinSignaling(serial: number): Promise<void> {
        let channel: Channel | null = null;
        channel = await this.options.signaling.join(
            {
                topic: signalingTopic(this.agentId),
                onMessage: (event, payload) => this.receive(event, payload),
                onState: (state) => {
                    if (state === "lost" && channel && this.channel === channel)
                        this.dispatch({
                            type: "channel-lost",
                            serial,
                            reason: "the signaling channel was lost",
                        });
                },
            },
            this.options.timing.join,
        );
        if (serial === this.machine.serial && this.machine.state !== "idle") this.channel = channel;
        else void channel.leave();
    }

    private broadcast(message: Message): Promise<void> {
        if (!this.channel) return Promise.reject(new Error("the signaling channel is not joined"));
        return this.channel.send(...dump(message));
    }

    private async createOffer(serial: number, iceServers: readonly IceServer[]): Promise<void> {
        try {
            const peer = this.options.makePeer(iceServers);
            this.peer = peer;
            peer.onCandidate = (candidate) => this.dispatch({ type: "local-candidate", serial, candidate });
            const sdp = await peer.createOffer();
            if (this.peer === peer) this.dispatch({ type: "offer-created", serial, sdp });
        } catch (error) {
            this.dispatch({ type: "peer-failed", serial, reason: (error as Error).message });
        }
    }

    private async applyAnswer(serial: number, sdp: string, proof?: ProofFields): Promise<void> {
        const { peer } = this;
        if (!peer) return;
        try {
            await this.trust?.answer(sdp, proof);
            if (this.peer !== peer) return;
            await peer.applyAnswer(sdp);
            const wire = await peer.wire();
            const session = new Session(this.sessionId, this.options.timing);
            await session.start(wire);
            if (this.peer !== peer) {
                session.close("no longer wanted");
                return;
            }
            this.session.set(session);
            void session.closed.then((reason) => this.lost(serial, session, reason));
            this.dispatch({ type: "wire-up", serial });
        } catch (error) {
            if (this.peer !== peer) return;
            if (error instanceof PeerNotTrusted) this.distrust(serial, error);
            else this.dispatch({ type: "peer-failed", serial, reason: (error as Error).message });
        }
    }

    private lost(serial: number, session: Session, reason: string): void {
        if (this.session.value !== session) return; // we closed it
        this.session.set(null);
        this.dispatch({ type: "wire-lost", serial, reason });
    }
}

function now(): number {
    return performance.now() / 1000;
}

/** `crypto.randomUUID` needs a secure context, which a page on a plain LAN address is not. */
function randomId(): string {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
        byte.toString(16).padStart(2, "0"),
    ).join("");
}
