// Tests: a connection with an agent behind an in-memory bus and wire.

import { expect, vi } from "vitest";
import { Connection, type PeerLike } from "../../src/client/connection.ts";
import { Unauthorized } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import type { Channel, ChannelSpec, Signaling } from "../../src/transport/signaling.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { type MemoryWire, ScriptedAgent, wirePair } from "../runtime/memory_wire.ts";
import { AGENT, AgentsChannel, peer } from "./fakes.ts";

/** A machine may stand still for seconds. */
export const LONG = { timeout: 30_000 };

export const FLOW = [
    "requesting",
    "waiting-ready",
    "creating-offer",
    "waiting-answer",
    "connecting",
    "connected",
];

export class Bench {
    readonly sent: string[] = [];
    readonly states: string[] = [];
    readonly joined = new Set<string>();
    peers = 0;
    open = 0;
    agentWire: ReturnType<typeof wirePair>[1] | null = null;
    denied = false;
    /** The sessions that were knocked for. */
    readonly knocks: unknown[] = [];
    greet: (wire: MemoryWire) => ScriptedAgent = (wire) => new ScriptedAgent(wire);
    answers: "express" | "plain" | "refused" | "never" = "express";
    private readonly agents = new AgentsChannel((event, payload) => this.knocked(event, payload));
    private spec: ChannelSpec | null = null;

    readonly connection = new Connection({
        agentId: AGENT,
        iceServers: [],
        timing: DEFAULT_TIMING,
        agents: this.agents,
        signaling: { join: (spec) => this.join(spec) } satisfies Signaling,
        makePeer: () => this.peer(),
    });

    constructor() {
        this.connection.status.watch(({ state, attempt }) => this.states.push(`${state} ${attempt}`));
    }

    private async join(spec: ChannelSpec): Promise<Channel> {
        if (this.denied) throw new Unauthorized("Unauthorized: no");
        this.spec = spec;
        this.joined.add(spec.topic);
        return {
            topic: spec.topic,
            state: "joined",
            send: async (event, payload) => {
                this.sent.push(event);
                if (event === "offer")
                    this.spec?.onMessage("answer", { sdp: "v=0", sessionId: payload.sessionId });
            },
            leave: async () => void this.joined.delete(spec.topic),
        };
    }

    private knocked(event: string, payload: Record<string, unknown>): void {
        this.sent.push(payload.offer ? `${event}+offer` : event);
        const { sessionId } = payload;
        this.knocks.push(sessionId);
        this.agents.say("connection-ready", { agentId: AGENT, sessionId: "another-session" });
        this.agents.say("nonsense", 7);
        if (this.answers === "express")
            this.agents.say("connection-ready", { agentId: AGENT, sessionId, answer: "v=0" });
        if (this.answers === "plain") this.agents.say("connection-ready", { agentId: AGENT, sessionId });
        if (this.answers === "refused")
            this.agents.say("connection-refused", {
                agentId: AGENT,
                sessionId,
                code: "busy",
                message: "full",
            });
    }

    private peer(): PeerLike {
        this.peers += 1;
        this.open += 1;
        const [left, right] = wirePair();
        void left.closed.then(() => {
            this.open -= 1;
        });
        const wire = async (): Promise<Wire> => {
            this.greet(right);
            this.agentWire = right;
            return left;
        };
        return peer(wire, () => left.close());
    }

    /** Every peer, or the wire it gave to the session, is closed. */
    async released(): Promise<void> {
        await vi.waitFor(() => expect(this.open).toBe(0), LONG);
    }

    async until(state: string): Promise<void> {
        await vi.waitFor(() => expect(this.connection.status.value.state).toBe(state), LONG);
    }
}
