// Client: one connect, with its retries, to one agent. Receive → machine → run its effects → re-arm the one timer.

import {
    Attempt,
    type AttemptEffect,
    type AttemptEvent,
    type AttemptState,
    isLimited,
} from "../protocol/attempt.ts";
import { ConnectFailed, MalformedMessage, PeerNotTrusted, Unauthorized } from "../protocol/errors.ts";
import { signalingTopic } from "../protocol/ids.ts";
import { ICE_SERVERS } from "../protocol/limits.ts";
import { dump, type IceServer, type Message, type ProofFields, parse } from "../protocol/signaling.ts";
import type { Timing } from "../protocol/timing.ts";
import type { Unwatch } from "../runtime/observable.ts";
import type { Carry } from "../transport/pool.ts";
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

export interface Status {
    readonly state: AttemptState;
    /** From 1; 0 before the first. */
    readonly attempt: number;
    readonly reason: string;
}

export interface ConnectorOptions {
    readonly agentId: string;
    readonly sessionId: string;
    readonly agents: Knocking;
    readonly signaling: Signaling;
    readonly iceServers: readonly IceServer[];
    /** Further ones, soon, each time an offer is to be made. */
    readonly moreServers?: () => Promise<readonly IceServer[]>;
    readonly timing: Timing;
    /** Without it this is a plain client: it proves nothing and believes every agent. */
    readonly trust?: Trust | undefined;
    readonly makePeer: (iceServers: readonly IceServer[], policy: RTCIceTransportPolicy) => PeerLike;
    /** Default: all. */
    readonly policy?: RTCIceTransportPolicy;
    readonly carry: Carry;
    /** Where else we come at once for this session; asked at every knock. */
    readonly capabilities?: () => readonly string[];
    /** Told what the agent says, in its ready or its refusal, that it comes by. */
    readonly onReady?: (capabilities: readonly string[]) => void;
    /** Whether the session has a wire already: then a limit of the back end ends the connect. */
    readonly hasAnotherWire?: () => boolean;
    /** False: only knock, until `cancel()`. */
    readonly offers?: boolean;
    /** Hears every state once, in order. */
    readonly onStatus?: (status: Status) => void;
}

/** The states in which an offer may be wanted. */
const IN_TRY: readonly AttemptState[] = ["requesting", "waiting-ready", "creating-offer"];

/** The states in which a ready is the answer to our knock. */
const NOT_ANSWERED: readonly AttemptState[] = ["requesting", "waiting-ready"];

/** Used once: `connect()` makes a wire that carries the session, or throws and leaves nothing behind. */
export class Connector {
    private readonly options: ConnectorOptions;
    private readonly trust: Trust | undefined;
    private readonly machine: Attempt;
    private peer: PeerLike | null = null;
    /** Candidates follow the message they belong to. */
    private proving: Promise<unknown> = Promise.resolve();
    /** The try whose request is out, and the knock before it: one proof follows the other. */
    private requested = 0;
    private early: Promise<void> = Promise.resolve();
    /** Settled when the request that is decided on has its nonce; until then a ready for the knock before it is not known as such. */
    private signing: Promise<unknown> = Promise.resolve();
    /** The last of the messages whose turn has not come. */
    private checking: Promise<void> | null = null;
    private channel: Channel | null = null;
    private timer: ReturnType<typeof setTimeout> | undefined;
    /** Runs until the early knock. */
    private soon: ReturnType<typeof setTimeout> | undefined;
    private unlisten: Unwatch | null = null;
    private queue: AttemptEvent[] = [];
    private running = false;
    private pausing = false;
    private done: () => void = () => undefined;
    private fail: (error: Error) => void = () => undefined;

    constructor(options: ConnectorOptions) {
        this.options = options;
        this.trust = options.trust;
        const { agentId, sessionId, timing, offers = true } = options;
        this.machine = new Attempt(agentId, sessionId, { timing, offers, jitter: 2 * Math.random() - 1 });
    }

    /** Resolves when a wire carries the session. Rejects with the error of the last attempt, or `ConnectFailed`. */
    async connect(): Promise<void> {
        const settled = new Promise<void>((resolve, reject) => {
            this.done = resolve;
            this.fail = reject;
        });
        this.unlisten = this.options.agents.listen((event, payload) => this.receive(event, payload));
        this.dispatch({ type: "connect" });
        try {
            await settled;
        } finally {
            this.release();
        }
    }

    /** Give up: release everything. */
    cancel(reason: string): void {
        this.release();
        if (this.machine.state !== "connected") this.dispatch({ type: "stop", reason });
        this.fail(new ConnectFailed(reason));
    }

    /** The network is another one: no pause before the next attempt. */
    hurry(): void {
        if (this.machine.state === "retrying") this.retry();
    }

    private release(): void {
        clearTimeout(this.soon);
        this.unlisten?.();
        this.unlisten = null;
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
        const mayBeLate = message.event === "connection-ready" && message.answer === undefined;
        if ((mayBeLate && this.trust) || this.checking) this.inTurn(message);
        else this.dispatch(message);
    }

    /** A check takes a while; what came after it waits for it. */
    private inTurn(message: Message): void {
        const taken = (this.checking ?? Promise.resolve()).then(() => this.check(message));
        this.checking = taken;
        taken
            .catch((error: Error) => console.error("a message could not be handled", error))
            .finally(() => {
                if (this.checking === taken) this.checking = null;
            });
    }

    /** A ready for an earlier knock than the last that is decided on is late, also if that is decided on meanwhile. */
    private async check(message: Message): Promise<void> {
        if (message.event === "connection-ready" && message.answer === undefined)
            for (let last: Promise<unknown> | undefined; last !== this.signing; ) {
                last = this.signing;
                await last;
                if (await this.trust?.isLate(message.proof)) {
                    console.info("a ready for an earlier knock is ignored");
                    return;
                }
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
        const before = this.machine.state;
        this.machine.handle(event, now());
        if ("event" in event && before !== this.machine.state) this.tellReady(event, before);
        this.drain();
    }

    /** It was believed. */
    private tellReady(message: Message, before: AttemptState): void {
        const ready = message.event === "connection-ready" && NOT_ANSWERED.includes(before);
        if (ready || message.event === "connection-refused")
            this.options.onReady?.(message.capabilities ?? []);
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
            const inVain = outcome && isLimited(outcome) && this.options.hasAnotherWire?.();
            if (outcome?.retryable && !inVain) this.dispatch({ type: "pause" });
            else this.fail(outcome?.error ?? new ConnectFailed("not connected"));
            return;
        }
        if (state === "retrying") {
            if (this.pausing) return;
            this.pausing = true;
            clearTimeout(this.timer);
            this.timer = setTimeout(() => this.retry(), (outcome?.pause ?? 0) * 1000);
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

    private retry(): void {
        clearTimeout(this.timer);
        this.pausing = false;
        this.dispatch({ type: "retry" });
    }

    private run(effect: AttemptEffect): void {
        switch (effect.type) {
            case "report":
                this.report({ state: effect.state, attempt: effect.attempt, reason: effect.reason });
                return;
            case "ignored":
                console.debug(`${effect.event} ignored: ${effect.why}`);
                return;
            case "join-agents":
                return this.onChannel(effect.serial, this.options.agents.joined(), "agents-joined");
            case "join-signaling":
                return this.onChannel(effect.serial, this.joinSignaling(effect.serial), "signaling-joined");
            case "send-request": {
                const capabilities = this.options.capabilities?.() ?? [];
                const message = { ...effect.message, ...(capabilities.length > 0 && { capabilities }) };
                this.requested = effect.serial;
                const proof = this.trust && this.early.then(() => this.trust?.request(message) ?? message);
                this.signing = proof?.catch(() => undefined) ?? this.signing; // told by the caller's promise
                const sent = this.proved(message, proof, (proved) =>
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
                void this.createOffer(effect.serial, effect.iceServers ?? []);
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
                this.peer?.close();
                this.peer = null;
        }
    }

    private report(status: Status): void {
        this.options.onStatus?.(status);
        if (status.state === "connected") this.done();
    }

    private onChannel(
        serial: number,
        work: Promise<unknown>,
        type: "agents-joined" | "signaling-joined" | "request-sent" | "offer-sent",
    ): void {
        work.then(
            () => {
                this.dispatch({ type, serial });
                if (type !== "agents-joined" || this.requested === serial) return;
                this.soon = setTimeout(() => this.knockEarly(serial), this.options.timing.earlyKnock * 1000);
            },
            (error: Error) => {
                if (error instanceof PeerNotTrusted) return this.distrust(serial, error);
                const type = error instanceof Unauthorized ? "denied" : "channel-lost";
                this.dispatch({ type, serial, reason: error.message });
            },
        );
    }

    /** The agent need not wait for our offer to come where we come besides, if that takes a while. */
    private knockEarly(serial: number): void {
        const capabilities = this.options.capabilities?.() ?? [];
        const wanted = serial === this.machine.serial && this.machine.state === "requesting";
        if (!wanted || this.requested === serial || capabilities.length === 0) return;
        const { agentId, sessionId, agents } = this.options;
        const message = { event: "connection-request", agentId, sessionId, capabilities } as const;
        const proved = this.trust?.request(message) ?? Promise.resolve(message);
        this.early = proved
            .then((knock) => {
                const sent = agents.send(...dump(knock)); // its acknowledgement is not waited for
                sent.catch((error: Error) => console.debug("the early knock:", error.message));
            })
            .catch((error: Error) => console.debug("no early knock:", error.message)); // nor will there be a later one
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
                topic: signalingTopic(this.options.agentId),
                onMessage: (event, payload) => this.receive(event, payload),
                onState: (state, reason = "no reason given") => {
                    if (state === "lost" && channel && this.channel === channel)
                        this.dispatch({
                            type: "channel-lost",
                            serial,
                            reason: `the signaling channel was lost: ${reason}`,
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

    /** `agents` are the ICE servers that the agent names. */
    private async createOffer(serial: number, agents: readonly IceServer[]): Promise<void> {
        const { iceServers: own, moreServers } = this.options;
        try {
            const more = (await moreServers?.()) ?? [];
            if (serial !== this.machine.serial || !IN_TRY.includes(this.machine.state)) return;
            const iceServers = [...own, ...more, ...agents].slice(0, ICE_SERVERS);
            const peer = this.options.makePeer(iceServers, this.options.policy ?? "all");
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
            await this.options.carry(await peer.wire());
            if (this.peer !== peer) return;
            this.peer = null; // its wire is the session's now
            this.dispatch({ type: "wire-up", serial });
        } catch (error) {
            if (this.peer !== peer) return;
            if (error instanceof PeerNotTrusted) this.distrust(serial, error);
            else this.dispatch({ type: "peer-failed", serial, reason: (error as Error).message });
        }
    }
}

function now(): number {
    return performance.now() / 1000;
}
