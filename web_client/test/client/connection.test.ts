// The adapter loop with an agent behind an in-memory bus and wire: the order of things, retries, loss, release.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Connection, type PeerLike } from "../../src/client/connection.ts";
import { AgentUnreachable, ConnectionRefused, Unauthorized } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import type { Channel, ChannelSpec, Signaling } from "../../src/transport/signaling.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { ScriptedAgent, wirePair } from "../runtime/memory_wire.ts";

const AGENT = "00000000-0000-4000-8000-000000000001";

class Bench {
    readonly sent: string[] = [];
    readonly states: string[] = [];
    readonly joined = new Set<string>();
    peers = 0;
    open = 0;
    agentWire: ReturnType<typeof wirePair>[1] | null = null;
    denied = false;
    answers: "express" | "plain" | "refused" | "never" = "express";
    private listener: (event: string, payload: unknown) => void = () => undefined;
    private spec: ChannelSpec | null = null;

    readonly connection = new Connection({
        agentId: AGENT,
        iceServers: [],
        timing: DEFAULT_TIMING,
        agents: {
            joined: async () => undefined,
            send: async (event, payload) => this.knocked(event, payload),
            listen: (listener) => {
                this.listener = listener;
                return () => {
                    this.listener = () => undefined;
                };
            },
        },
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
        this.listener("connection-ready", { agentId: AGENT, sessionId: "another-session" });
        this.listener("nonsense", 7);
        if (this.answers === "express")
            this.listener("connection-ready", { agentId: AGENT, sessionId, answer: "v=0" });
        if (this.answers === "plain") this.listener("connection-ready", { agentId: AGENT, sessionId });
        if (this.answers === "refused")
            this.listener("connection-refused", { agentId: AGENT, sessionId, code: "busy", message: "full" });
    }

    private peer(): PeerLike {
        this.peers += 1;
        this.open += 1;
        const [left, right] = wirePair();
        void left.closed.then(() => {
            this.open -= 1;
        });
        return {
            onCandidate: null,
            createOffer: async () => "v=0\r\na=ice-ufrag:abcd\r\n",
            applyAnswer: async () => undefined,
            addCandidate: async () => undefined,
            wire: async (): Promise<Wire> => {
                new ScriptedAgent(right);
                this.agentWire = right;
                return left;
            },
            close: () => left.close(),
        };
    }

    /** Every peer, or the wire it gave to the session, is closed. */
    async released(): Promise<void> {
        await vi.waitFor(() => expect(this.open).toBe(0), { timeout: 20_000 });
    }

    async until(state: string): Promise<void> {
        await vi.waitFor(() => expect(this.connection.status.value.state).toBe(state));
    }
}

beforeEach(() => {
    vi.spyOn(console, "warn").mockImplementation(() => undefined); // the nonsense on the bus is reported there
});

const FLOW = ["requesting", "waiting-ready", "creating-offer", "waiting-answer", "connecting", "connected"];

describe("connection", () => {
    it.each(["express", "plain"] as const)("%s: every state once and in order", async (answers) => {
        const bench = new Bench();
        bench.answers = answers;
        bench.connection.connect();
        await bench.until("connected");
        expect(bench.states).toEqual(FLOW.map((state) => `${state} 1`));
        expect(bench.connection.session.value?.peer).toMatchObject({ name: "atelier" });
        expect(bench.sent).toContain("connection-request+offer");
        await vi.waitFor(() => expect([...bench.joined]).toEqual([]));
        bench.connection.close();
        expect([bench.connection.session.value, bench.states.at(-1)]).toEqual([null, "idle 1"]);
        await bench.released();
    });

    it("a lost wire connects again, with a new peer", async () => {
        const bench = new Bench();
        bench.connection.connect();
        await bench.until("connected");
        const first = bench.connection.session.value;
        bench.agentWire?.close("gone");
        const flow = FLOW.map((state) => `${state} 1`);
        await vi.waitFor(() => expect(bench.states).toEqual([...flow, ...flow]));
        expect(bench.connection.session.value).not.toBe(first);
        expect(bench.peers).toBe(2);
        bench.connection.close();
        await bench.released();
    });

    it("refused and denied are final, and can be tried again by hand", async () => {
        const bench = new Bench();
        bench.answers = "refused";
        bench.connection.connect();
        await bench.until("failed");
        expect(bench.connection.error.value).toBeInstanceOf(ConnectionRefused);
        bench.denied = true;
        bench.connection.connect();
        await vi.waitFor(() => expect(bench.connection.error.value).toBeInstanceOf(Unauthorized));
        bench.denied = false;
        bench.answers = "express";
        bench.connection.connect();
        await bench.until("connected");
        expect(bench.connection.error.value).toBeNull();
        bench.connection.close();
    });
});

describe("an agent that never answers", () => {
    beforeEach(() => {
        vi.useFakeTimers();
    });
    afterEach(() => {
        vi.useRealTimers();
    });

    it("ends after 4 attempts and 29 s, with nothing left behind", async () => {
        const bench = new Bench();
        bench.answers = "never";
        bench.connection.connect();
        await vi.advanceTimersByTimeAsync(28_900);
        expect(bench.connection.error.value).toBeNull();
        await vi.advanceTimersByTimeAsync(200);
        expect(bench.connection.error.value).toBeInstanceOf(AgentUnreachable);
        const attempt = (n: number) => [`requesting ${n}`, `waiting-ready ${n}`, `failed ${n}`];
        expect(bench.states).toEqual(
            [1, 2, 3, 4].flatMap((n) => [...attempt(n), ...(n < 4 ? [`retrying ${n}`] : [])]),
        );
        expect([bench.open, [...bench.joined], vi.getTimerCount()]).toEqual([0, [], 0]);
    });
});
