// Protocol: the client's connection machine (docs/design.md); mirrors protocol/attempt.py. No I/O, no clock.
//
// The adapter's loop: receive → `handle(event, now)` → run each of `effects()` → one timer for `deadline()` that calls
// `handleTimer(now)`. Completions bring back the `serial` of their effect; those of a try that is over are ignored.
// Messages of the network never throw. Times are in seconds.

import {
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    type DoorstepError,
    NotAllowed,
    PeerNotTrusted,
    SignalingLost,
    Unauthorized,
} from "./errors.ts";
import { RETRIES } from "./limits.ts";
import {
    type Answer,
    type Candidate,
    type ConnectionReady,
    type ConnectionRequest,
    type IceCandidate,
    type IceServer,
    iceUfrags,
    type Message,
    type Offer,
    type ProofFields,
    type ConnectionRefused as Refusal,
} from "./signaling.ts";
import { DEFAULT_TIMING, type Timing } from "./timing.ts";
import { Trickle } from "./trickle.ts";

export type AttemptState =
    | "idle"
    | "requesting"
    | "waiting-ready"
    | "creating-offer"
    | "waiting-answer"
    | "connecting"
    | "connected"
    | "failed"
    | "retrying";

export type AttemptTrigger =
    | "connect"
    | "agents-joined"
    | "signaling-joined"
    | "offer-created"
    | "request-sent"
    | "ready"
    | "offer-sent"
    | "answer"
    | "wire-up"
    | "wire-lost"
    | "fail"
    | "pause"
    | "retry"
    | "stop";

type Row = Readonly<Partial<Record<AttemptTrigger, AttemptState>>>;

/** The machine. An entry that leads back to its own state says that the event is expected there. */
export const TRANSITIONS: Readonly<Record<AttemptState, Row>> = Object.freeze({
    idle: { connect: "requesting", stop: "idle" },
    requesting: {
        "agents-joined": "requesting",
        "signaling-joined": "requesting",
        "offer-created": "requesting",
        "request-sent": "waiting-ready",
        fail: "failed",
        stop: "idle",
    },
    "waiting-ready": {
        ready: "creating-offer",
        fail: "failed",
        stop: "idle",
    },
    "creating-offer": {
        "signaling-joined": "creating-offer",
        "offer-created": "creating-offer",
        "offer-sent": "waiting-answer",
        fail: "failed",
        stop: "idle",
    },
    "waiting-answer": { answer: "connecting", fail: "failed", stop: "idle" },
    connecting: { "wire-up": "connected", fail: "failed", stop: "idle" },
    connected: { "wire-lost": "requesting", stop: "idle" },
    failed: { pause: "retrying", stop: "idle" },
    retrying: { retry: "requesting", fail: "failed", stop: "idle" },
});

/** The wait that starts on entering a state, by its name in `Timing`. */
export const WAITS: Readonly<Partial<Record<AttemptState, keyof Timing>>> = Object.freeze({
    requesting: "join",
    "waiting-ready": "ready",
    "creating-offer": "join", // its longest part is the join of the signaling channel
    "waiting-answer": "answer",
    connecting: "ice",
});

type Numbered<T extends string> = { readonly type: T; readonly serial: number };

export type Completion =
    | Numbered<"agents-joined">
    | Numbered<"signaling-joined">
    | Numbered<"request-sent">
    | (Numbered<"offer-created"> & { readonly sdp: string })
    | Numbered<"offer-sent">
    | (Numbered<"local-candidate"> & { readonly candidate: IceCandidate })
    | Numbered<"wire-up">
    | (Numbered<"wire-lost"> & { readonly reason: string })
    | (Numbered<"channel-lost"> & { readonly reason: string })
    | (Numbered<"denied"> & { readonly reason: string })
    | (Numbered<"peer-failed"> & { readonly reason: string })
    /** The agent's key or proof is not the one that was expected. Final. */
    | (Numbered<"not-trusted"> & {
          readonly reason: string;
          readonly known?: string | undefined;
          readonly shown?: string | undefined;
      });

export type Command =
    | { readonly type: "connect" }
    | { readonly type: "pause" }
    | { readonly type: "retry" }
    | { readonly type: "stop"; readonly reason?: string };

export type AttemptEvent = Command | Completion | Message;

export type AttemptEffect =
    | Numbered<"join-agents">
    | (Numbered<"send-request"> & { readonly message: ConnectionRequest })
    | Numbered<"join-signaling">
    /** `iceServers` null = the client's own. */
    | (Numbered<"create-offer"> & { readonly iceServers: readonly IceServer[] | null })
    /** `proof` is that of the `connection-ready` that asked for it. */
    | (Numbered<"send-offer"> & { readonly message: Offer; readonly proof?: ProofFields })
    | (Numbered<"send-candidate"> & { readonly message: Candidate })
    | (Numbered<"apply-answer"> & { readonly sdp: string; readonly proof?: ProofFields })
    | (Numbered<"add-candidate"> & { readonly candidate: IceCandidate })
    /** This try no longer needs the signaling channel. Never touches a peer. */
    | Numbered<"leave-signaling">
    | Numbered<"close-peer">
    /** For the observers: each state once, in order. `attempt` counts from 1. */
    | {
          readonly type: "report";
          readonly state: AttemptState;
          readonly attempt: number;
          readonly reason: string;
      }
    /** A message changed nothing: `repeat`, `stale`, `late` or `limit`. For the log. */
    | { readonly type: "ignored"; readonly event: string; readonly why: string };

/** What a Realtime server says when there is too much for it (its ERROR_CODES): of joins, messages, sockets. */
const LIMIT = /Too many|RateLimit|HTTP 429/;

/** How an attempt failed. `pause` is in seconds; without `retryable` this is the end. */
export interface Outcome {
    readonly error: DoorstepError;
    readonly retryable: boolean;
    readonly pause: number;
}

/** It was a limit of the server: who has another wire does better not to ask again soon. */
export function isLimited({ error, pause }: Outcome): boolean {
    return error instanceof SignalingLost && pause > 0;
}

export interface AttemptOptions {
    /** The first attempt makes its offer and joins the signaling channel at once: the request carries the offer. */
    readonly express?: boolean;
    /**
     * False: it only knocks, for a session that shall come by another road: after the ready it waits in `creating-offer`
     * until its adapter stops it, or else the agent has not come and is knocked for again.
     */
    readonly offers?: boolean;
    readonly clientId?: string;
    readonly capabilities?: readonly string[];
    readonly timing?: Timing;
    readonly retries?: number;
    /**
     * From -1 to 1, the adapter's random number: clients that began in the same moment pause differently. It moves the
     * attempts in between, not the end of the last one.
     */
    readonly jitter?: number;
}

const TRYING: readonly AttemptState[] = [
    "requesting",
    "waiting-ready",
    "creating-offer",
    "waiting-answer",
    "connecting",
];

export class Attempt {
    private current: AttemptState = "idle";
    private wait: { name: keyof Timing; at: number; limit: number } | null = null;
    private pending: AttemptEffect[] = [];
    private currentSerial = 0;
    private number = 0;
    private total = 0;
    private ended: Outcome | null = null;

    // What is known of the present try.
    private agents = false;
    private signalingAsked = false;
    private signaling = false;
    private peer = false;
    private offer: string | null = null;
    private requestOut = false;
    private readyProof: ProofFields | undefined;
    private offerOut = false;
    private trickle: Trickle;

    private readonly agentId: string;
    private readonly sessionId: string | null;
    private readonly express: boolean;
    private readonly offers: boolean;
    private readonly clientId: string | undefined;
    private readonly capabilities: readonly string[];
    private readonly timing: Timing;
    private readonly retries: number;
    private readonly jitter: number;
    /** Attempts that were lost to a server's limit: there is time until `timing.total`. */
    private uncounted = 0;

    /** `sessionId` null is the anonymous session. */
    constructor(agentId: string, sessionId: string | null, options: AttemptOptions = {}) {
        this.agentId = agentId;
        this.sessionId = sessionId;
        this.offers = options.offers ?? true;
        this.express = (options.express ?? true) && this.offers;
        this.clientId = options.clientId;
        this.capabilities = options.capabilities ?? [];
        this.timing = options.timing ?? DEFAULT_TIMING;
        this.retries = options.retries ?? RETRIES;
        this.jitter = options.jitter ?? 0;
        this.trickle = new Trickle(sessionId, "client");
    }

    get state(): AttemptState {
        return this.current;
    }

    /** The attempt the machine is in or ended with; 0 before the first. */
    get attempt(): number {
        return this.number;
    }

    /** The number of the present try, which events of it must carry. */
    get serial(): number {
        return this.currentSerial;
    }

    /** Set in failed and retrying: how the last attempt ended. */
    get outcome(): Outcome | null {
        return this.ended;
    }

    /** Take what is to be done, in order. The list is empty afterwards. */
    effects(): AttemptEffect[] {
        const taken = this.pending;
        this.pending = [];
        return taken;
    }

    /** When to call `handleTimer`: the open wait or the total deadline, whichever is first. Null = not at all. */
    deadline(): number | null {
        if (!this.trying && this.current !== "retrying") return null;
        return this.wait ? Math.min(this.wait.at, this.total) : this.total;
    }

    /** End the attempt if a limit is reached; otherwise do nothing. */
    handleTimer(now: number): void {
        const deadline = this.deadline();
        if (deadline === null || now < deadline) return;
        if (now >= this.total) this.fail(this.totalError(), null, now);
        else this.waitOver(now);
    }

    /** Take one event. Throws `NotAllowed`, never for a message of the network. */
    handle(event: AttemptEvent, now: number): void {
        if ("event" in event) this.message(event, now);
        else if ("serial" in event) {
            if (!this.isOver(event)) this.complete(event, now);
        } else this.command(event, now);
    }

    private command(event: Command, now: number): void {
        switch (event.type) {
            case "connect":
                return this.begin("connect", now);
            case "pause":
                return this.pause(now);
            case "retry":
                return this.begin("retry", now);
            case "stop":
                return this.stop(event.reason ?? "stopped", now);
        }
    }

    private complete(event: Completion, now: number): void {
        switch (event.type) {
            case "agents-joined":
            case "signaling-joined":
            case "offer-created":
                return this.prepared(event);
            case "request-sent":
                return this.sent("request-sent", this.requestOut, "requesting", now);
            case "offer-sent":
                return this.sent("offer-sent", this.offerOut, "creating-offer", now);
            case "local-candidate":
                return this.sendCandidates(this.trickle.gathered(event.candidate));
            case "wire-up":
                this.check("wire-up");
                this.emit({ type: "leave-signaling", serial: this.currentSerial });
                return this.move("wire-up", now);
            case "wire-lost":
                this.check("wire-lost");
                this.release();
                return this.begin("wire-lost", now, event.reason);
            case "channel-lost":
                return this.signalingLost(event.reason, now);
            case "denied":
                return this.channelFailed(new Unauthorized(event.reason), null, now);
            case "peer-failed":
                if (this.current === "connected") return; // a wire that is up is lost by wire-lost only
                return this.fail(new ConnectFailed(event.reason), this.retryPause(), now);
            case "not-trusted":
                return this.fail(new PeerNotTrusted(event.reason, event.known, event.shown), null, now);
        }
    }

    private message(event: Message, now: number): void {
        switch (event.event) {
            case "connection-ready":
                return this.ready(event, now);
            case "connection-refused":
                return this.refused(event, now);
            case "answer":
                if (this.isOurs(event.sessionId)) this.answered(event, event.sdp, now);
                return;
            case "candidate":
                return this.candidate(event);
            case "connection-request":
            case "offer": // of another client
        }
    }

    // --- commands ---

    private begin(trigger: AttemptTrigger, now: number, reason = ""): void {
        this.check(trigger);
        if (trigger !== "retry") {
            this.number = this.uncounted = 0;
            this.total = now + this.timing.total;
        }
        this.currentSerial += 1;
        this.number += 1;
        this.ended = null;
        this.agents = this.signalingAsked = this.signaling = this.peer = false;
        this.offer = null;
        this.requestOut = this.offerOut = false;
        this.readyProof = undefined;
        this.trickle = new Trickle(this.sessionId, "client");
        this.move(trigger, now, reason);
        this.emit({ type: "join-agents", serial: this.currentSerial });
        if (this.express && this.number === 1) this.prepare(null);
    }

    private pause(now: number): void {
        this.check("pause");
        if (!this.ended?.retryable) throw new NotAllowed("failed for good", "pause");
        this.move("pause", now, `again in ${this.ended.pause} s`);
    }

    private stop(reason: string, now: number): void {
        this.release();
        this.ended = null;
        this.move("stop", now, reason);
    }

    // --- completions ---

    private isOver(event: Completion): boolean {
        if (event.serial < 1 || event.serial > this.currentSerial)
            throw new NotAllowed(this.current, `${event.type} of try ${event.serial}`);
        return event.serial < this.currentSerial || !(this.trying || this.current === "connected");
    }

    private prepared(
        event: Extract<Completion, { type: "agents-joined" | "signaling-joined" | "offer-created" }>,
    ): void {
        switch (event.type) {
            case "agents-joined":
                this.expect(event.type, !this.agents);
                this.agents = true;
                break;
            case "signaling-joined":
                this.expect(event.type, this.signalingAsked && !this.signaling);
                this.signaling = true;
                break;
            case "offer-created":
                this.expect(event.type, this.peer && this.offer === null);
                this.offer = event.sdp;
        }
        if (this.current === "requesting") this.sendRequest();
        else this.sendOffer();
    }

    private expect(trigger: AttemptTrigger, expected: boolean): void {
        this.check(trigger);
        if (!expected) throw new NotAllowed(this.current, trigger);
    }

    private sent(trigger: AttemptTrigger, out: boolean, sending: AttemptState, now: number): void {
        if (!out) throw new NotAllowed(this.current, trigger);
        if (this.current === sending) this.move(trigger, now); // else the reaction came before the acknowledgement
    }

    // --- what is sent when all it needs is there ---

    private prepare(iceServers: readonly IceServer[] | null): void {
        this.signalingAsked = true;
        this.peer = true;
        this.emit({ type: "join-signaling", serial: this.currentSerial });
        this.emit({ type: "create-offer", serial: this.currentSerial, iceServers });
    }

    private sendRequest(): void {
        const prepared = !this.peer || (this.signaling && this.offer !== null);
        if (this.requestOut || !this.agents || !prepared) return;
        this.requestOut = true;
        this.offerOut = this.offer !== null;
        const message: ConnectionRequest = {
            event: "connection-request",
            agentId: this.agentId,
            ...(this.sessionId === null ? {} : { sessionId: this.sessionId }),
            ...(this.clientId === undefined ? {} : { clientId: this.clientId }),
            ...(this.capabilities.length === 0 ? {} : { capabilities: this.capabilities }),
            ...(this.offer === null ? {} : { offer: this.offer }),
        };
        this.emit({ type: "send-request", serial: this.currentSerial, message });
    }

    private sendOffer(): void {
        if (this.offer === null || !this.signaling) return;
        this.offerOut = true;
        const session = this.sessionId === null ? {} : { sessionId: this.sessionId };
        const message: Offer = { event: "offer", sdp: this.offer, ...session };
        const proof = this.readyProof && { proof: this.readyProof };
        this.emit({ type: "send-offer", serial: this.currentSerial, message, ...proof });
        this.sendCandidates(this.trickle.announced(this.offer));
    }

    private sendCandidates(messages: readonly Candidate[]): void {
        if (this.current === "connected") return;
        for (const message of messages)
            this.emit({ type: "send-candidate", serial: this.currentSerial, message });
    }

    // --- messages ---

    private isOurs(sessionId: string | undefined): boolean {
        return sessionId === undefined || sessionId === this.sessionId;
    }

    private isReply(message: ConnectionReady | Answer): boolean {
        if (!this.offerOut || this.offer === null) return false;
        return message.replyTo === undefined || iceUfrags(this.offer).includes(message.replyTo);
    }

    private ready(message: ConnectionReady, now: number): void {
        if (message.agentId !== this.agentId || !this.isOurs(message.sessionId)) return;
        const answer = message.answer;
        if ((this.current === "creating-offer" || this.current === "waiting-answer") && answer !== undefined)
            this.answered(message, answer, now);
        else if (!this.requestOut || (answer !== undefined && !this.isReply(message)))
            this.ignore(message.event, "stale");
        else if (this.current === "requesting" || this.current === "waiting-ready")
            this.agentReady(message, now);
        else this.ignore(message.event, "repeat");
    }

    private agentReady(message: ConnectionReady, now: number): void {
        if (this.current === "requesting") this.move("request-sent", now);
        this.move("ready", now);
        this.readyProof = message.proof;
        if (!this.offers) return;
        if (!this.peer) this.prepare(message.iceServers ?? null);
        else if (message.answer !== undefined) this.answered(message, message.answer, now);
        else this.sendOffer();
    }

    private answered(message: ConnectionReady | Answer, sdp: string, now: number): void {
        if (this.current === "connecting" || this.current === "connected")
            return this.ignore(message.event, "repeat");
        if (
            !(this.current === "creating-offer" || this.current === "waiting-answer") ||
            !this.isReply(message)
        )
            return this.ignore(message.event, "stale");
        if (this.current === "creating-offer") this.move("offer-sent", now);
        const proof = message.proof && { proof: message.proof };
        this.emit({ type: "apply-answer", serial: this.currentSerial, sdp, ...proof });
        // Ours for one that went in a knock: before, the agent need not have been there to hear them.
        if (this.offer !== null) this.sendCandidates(this.trickle.announced(this.offer));
        this.move("answer", now);
        for (const candidate of this.trickle.described(sdp))
            this.emit({ type: "add-candidate", serial: this.currentSerial, candidate });
    }

    private refused(message: Refusal, now: number): void {
        if (message.agentId !== this.agentId || (message.sessionId ?? null) !== this.sessionId) return;
        if (!this.trying || !this.requestOut) return this.ignore(message.event, "late");
        const error =
            message.code === "not-trusted"
                ? new PeerNotTrusted(message.message, undefined, undefined, true)
                : new ConnectionRefused(message.code, message.message, message.retryAfter);
        this.fail(error, null, now);
    }

    private candidate(message: Candidate): void {
        if (message.from === "client" || !this.isOurs(message.sessionId)) return;
        if (!this.trying || !this.offerOut)
            return this.ignore(message.event, this.current === "connected" ? "late" : "stale");
        const [candidates, why] = this.trickle.receive(message);
        for (const candidate of candidates)
            this.emit({ type: "add-candidate", serial: this.currentSerial, candidate });
        if (why) this.ignore(message.event, why);
    }

    // --- endings ---

    private signalingLost(reason: string, now: number): void {
        const limited = LIMIT.test(reason);
        const pause = limited ? this.timing.retryPause * (1.5 + this.jitter / 2) : 0;
        if (limited && this.current !== "connecting") this.uncounted += 1;
        this.channelFailed(new SignalingLost(reason), pause, now);
    }

    /** What the first pause is longer or shorter, the last one makes up for. */
    private retryPause(): number {
        const counted = this.number - this.uncounted;
        const moved = Number(counted === 1) - Number(counted === this.retries);
        return this.timing.retryPause * (1 + (this.jitter / 2) * moved);
    }

    private channelFailed(error: DoorstepError, pause: number | null, now: number): void {
        if (this.current === "connecting" || this.current === "connected") return; // these need the channel no more
        this.fail(error, pause, now);
    }

    private waitOver(now: number): void {
        if (!this.wait) return;
        const within = `within ${this.wait.limit} s`;
        const pause = this.retryPause();
        if (this.current === "waiting-ready") this.fail(new AgentUnreachable(), pause, now);
        else if (this.current === "waiting-answer")
            this.fail(new ConnectFailed(`no answer from the agent ${within}`, this.wait.name), pause, now);
        else if (this.current === "connecting")
            this.fail(new ConnectFailed(`no wire to the agent was up ${within}`, this.wait.name), pause, now);
        else if (this.current === "creating-offer" && !this.offers)
            this.fail(new ConnectFailed(`the agent did not come ${within}`, this.wait.name), pause, now);
        else if (this.current === "creating-offer" && this.signaling)
            this.fail(new ConnectFailed(`no offer was made ${within}`, this.wait.name), pause, now);
        else this.fail(new SignalingLost(`no channel was joined ${within}`), 0, now);
    }

    private totalError(): DoorstepError {
        if (this.current === "retrying" && this.ended) return this.ended.error;
        if (this.current === "waiting-ready") return new AgentUnreachable();
        return new ConnectFailed(
            `not connected within ${this.timing.total} s, still ${this.current}`,
            "total",
        );
    }

    /** End the attempt; `pause` null ends the connect. */
    private fail(error: DoorstepError, pause: number | null, now: number): void {
        this.check("fail");
        const counted = this.number - this.uncounted;
        const again = pause !== null && counted <= this.retries && now + pause < this.total;
        this.release();
        this.ended = { error, retryable: again, pause: pause ?? 0 };
        this.move("fail", now, error.message);
    }

    private release(): void {
        if (this.peer) this.emit({ type: "close-peer", serial: this.currentSerial });
        if (this.signalingAsked && this.current !== "connected")
            this.emit({ type: "leave-signaling", serial: this.currentSerial });
        this.peer = this.signalingAsked = false;
    }

    // --- the one setter ---

    private get trying(): boolean {
        return TRYING.includes(this.current);
    }

    private check(trigger: AttemptTrigger): AttemptState {
        const next = TRANSITIONS[this.current][trigger];
        if (next === undefined) throw new NotAllowed(this.current, trigger);
        return next;
    }

    /** Set the state, start its wait, tell the observers: the only place that does. */
    private move(trigger: AttemptTrigger, now: number, reason = ""): void {
        const state = this.check(trigger);
        if (state === this.current) return;
        this.current = state;
        const name = WAITS[state];
        this.wait =
            name === undefined ? null : { name, at: now + this.timing[name], limit: this.timing[name] };
        this.emit({ type: "report", state, attempt: this.number, reason });
    }

    private ignore(event: string, why: string): void {
        this.emit({ type: "ignored", event, why });
    }

    private emit(effect: AttemptEffect): void {
        this.pending.push(effect);
    }
}
