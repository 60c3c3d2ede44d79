// WebRTC and another road side by side: who carries, who takes over, who is not waited for, who is not trusted.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Connection } from "../../src/client/connection.ts";
import { type Force, withoutTurn } from "../../src/client/roads.ts";
import {
    type AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    PeerNotTrusted,
    WireClosed,
} from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { type MemoryWire, ScriptedAgent, wirePair } from "../runtime/memory_wire.ts";
import { AGENT, AgentsChannel, never, peer, road, signaling } from "./fakes.ts";

const FLOW = ["requesting", "waiting-ready", "creating-offer", "waiting-answer", "connecting", "connected"];
const resume = { token: "t".repeat(43), streams: {} };

/** A wire with an agent at its other end that knows the session. */
function met(kind: string): Wire {
    const [left, right] = wirePair();
    const agent = new ScriptedAgent(right, false);
    agent.answer = (frame, send) => {
        if (frame.kind === "ping") send({ kind: "pong", timestamp: frame.timestamp });
        if (frame.kind !== "hello") return;
        const { version, sessionId, maxFrame } = frame;
        const about = { version, sessionId, role: "agent", features: ["resume"], maxFrame } as const;
        send({ kind: "welcome", ...about, agent: { name: "atelier" }, resume });
    };
    return Object.assign(left, { kind });
}

class Bench {
    readonly knocks: (readonly string[])[] = [];
    readonly policies: [RTCIceTransportPolicy, unknown][] = [];
    readonly states: string[] = [];
    meetings = 0;
    ended = 0;
    force: Force | null = null;
    promises = true;
    answers: "yes" | "never" | "refused" | "cannot" = "yes";
    /** What comes of the peer connection and of the meeting. */
    webrtc: () => Promise<Wire> = async () => met("webrtc");
    relay: () => Promise<Wire> = async () => met("relay");
    /** Say no to the last knock, as anybody on the channel can. */
    refuse: (code: string) => void = () => undefined;
    private readonly agents = new AgentsChannel((_event, payload) => this.knocked(payload));

    private readonly road = road(
        "relay",
        () => {
            this.meetings += 1;
            return this.relay();
        },
        () => {
            this.ended += 1;
        },
    );

    readonly connection = new Connection({
        agentId: AGENT,
        iceServers: [{ urls: ["stun:stun.test", "turn:turn.test"], username: "u", credential: "c" }],
        timing: DEFAULT_TIMING,
        agents: this.agents,
        signaling,
        makePeer: (servers, policy) => {
            this.policies.push([policy, servers]);
            return peer(() => this.webrtc());
        },
        roads: [this.road],
        force: () => this.force,
    });

    constructor() {
        this.connection.status.watch(({ state }) => this.states.push(state));
    }

    private knocked({ sessionId, capabilities = [], offer }: Record<string, unknown>): void {
        const asked = capabilities as string[];
        this.refuse = (code) =>
            this.agents.say("connection-refused", { agentId: AGENT, sessionId, code, message: "no" });
        this.knocks.push(asked);
        const no = { agentId: AGENT, sessionId, message: "no" };
        if (this.answers === "refused") this.agents.say("connection-refused", { ...no, code: "busy" });
        if (this.answers === "cannot")
            this.agents.say("connection-refused", { ...no, code: "connect-failed", capabilities: asked });
        if (this.answers !== "yes") return;
        this.agents.say("connection-ready", {
            agentId: AGENT,
            sessionId,
            ...(offer ? { answer: "v=0" } : {}),
            ...(this.promises ? { capabilities: asked } : {}),
        });
    }

    async on(kind: string): Promise<void> {
        await vi.waitFor(async () => {
            expect((await this.connection.session.value?.stats())?.kind).toBe(kind);
        }, 20_000);
    }

    async failed(
        kind: typeof PeerNotTrusted | typeof AgentUnreachable | typeof ConnectFailed,
    ): Promise<void> {
        await vi.waitFor(() => expect(this.connection.error.value).toBeInstanceOf(kind), 20_000);
        expect(this.connection.session.value).toBeNull();
    }
}

const broken = (error: Error) => async (): Promise<Wire> => {
    throw error;
};

vi.setConfig({ testTimeout: 40_000 });
let bench: Bench;

beforeEach(() => {
    for (const say of ["debug", "info", "warn"] as const)
        vi.spyOn(console, say).mockImplementation(() => undefined);
    bench = new Bench();
});

afterEach(() => bench.connection.close());

describe("roads", () => {
    it("the relay is first, WebRTC takes over; the session is the same, the states are told once", async () => {
        let ready: (wire: Wire) => void = () => undefined;
        bench.webrtc = () =>
            new Promise((resolve) => {
                ready = resolve;
            });
        bench.connection.connect();
        await bench.on("relay");
        const session = bench.connection.session.value;
        expect(bench.states).toEqual(FLOW);
        expect(bench.connection.status.value.reason).toBe("relay");
        expect(bench.connection.relayReason).toBe("webrtc is being tried");
        ready(met("webrtc"));
        await bench.on("webrtc");
        expect(bench.connection.session.value).toBe(session);
        expect([bench.states, bench.connection.relayReason]).toEqual([FLOW, ""]);
        expect(bench.knocks[0]).toEqual(["relay"]);
    });

    it("WebRTC is first: the relay is called off", async () => {
        bench.relay = never;
        bench.connection.connect();
        await bench.on("webrtc");
        await vi.waitFor(() => expect([bench.meetings, bench.ended]).toEqual([1, 1]), 20_000);
    });

    it("a relay that pairs and goes silent holds WebRTC not up", async () => {
        let relayed: Wire | undefined;
        bench.relay = async () => {
            [relayed] = wirePair();
            return relayed;
        };
        bench.webrtc = async () => {
            await vi.waitFor(() => expect(relayed).toBeDefined(), 20_000);
            return met("webrtc");
        };
        const since = performance.now();
        bench.connection.connect();
        await bench.on("webrtc");
        expect((performance.now() - since) / 1000).toBeLessThan(DEFAULT_TIMING.ice / 2);
        await expect(relayed?.closed).resolves.toContain("better wire");
    });

    it("WebRTC finds no path: the session stays on the relay, later knocks do not ask the agent there", async () => {
        bench.webrtc = broken(new ConnectFailed("no path"));
        bench.connection.connect();
        await bench.on("relay");
        await vi.waitFor(() => expect(bench.knocks.length).toBeGreaterThan(2), 20_000);
        expect(bench.knocks.slice(2).flat()).toEqual([]); // the first two are one: before the offer, and with it
        expect([bench.connection.session.value?.state.value, bench.meetings]).toEqual(["open", 1]);
    });

    it("the wire of the session is lost: both roads again", async () => {
        bench.webrtc = never;
        const wires: MemoryWire[] = [];
        bench.relay = async () => {
            const wire = met("relay");
            wires.push(wire as MemoryWire);
            return wire;
        };
        bench.connection.connect();
        await bench.on("relay");
        const session = bench.connection.session.value;
        wires[0]?.close("cut");
        await vi.waitFor(async () => expect((await session?.stats())?.wires).toBe(2), 20_000);
        expect(bench.connection.session.value).toBe(session);
        expect(bench.knocks.at(-1)).toEqual(["relay"]);
    });

    it("an agent that does not promise to come is not waited for", async () => {
        bench.promises = false;
        bench.relay = never;
        bench.webrtc = never;
        bench.connection.connect();
        await vi.waitFor(() => expect(bench.ended).toBe(1), 20_000);
    });

    it("it came and left before it had proved itself: again, after a pause", async () => {
        bench.webrtc = never;
        let times = 0;
        bench.relay = async () => {
            times += 1;
            if (times === 1) throw new WireClosed("the peer closed the connection");
            return met("relay");
        };
        bench.connection.connect();
        await bench.on("relay");
        expect(times).toBe(2);
    });

    it("nobody came in time: again, as long as there are knocks", async () => {
        bench.webrtc = never;
        let times = 0;
        bench.relay = async () => {
            times += 1;
            if (times < 3) throw new DeadlineExceeded("relay_wait", 20);
            return met("relay");
        };
        bench.connection.connect();
        await bench.on("relay");
        expect(times).toBe(3);
    });

    it("a relay that turns us away at once does not set the pace", async () => {
        bench.webrtc = never;
        const at: number[] = [];
        bench.relay = async () => {
            at.push(Date.now());
            if (at.length < 3) throw new DeadlineExceeded("relay_wait", 20);
            return met("relay");
        };
        bench.connection.connect();
        await bench.on("relay");
        const pauses = at.slice(1).map((time, index) => time - (at[index] as number));
        expect(Math.min(...pauses)).toBeGreaterThan(0.9 * DEFAULT_TIMING.reconnectFirst * 1000);
    });

    it("a peer connection that the agent cannot make does not end the road where it promises to come", async () => {
        bench.answers = "cannot";
        let meet: () => void = () => undefined;
        bench.relay = () =>
            new Promise((resolve) => {
                meet = () => resolve(met("relay"));
            });
        bench.connection.connect();
        await vi.waitFor(() => expect(bench.states).toContain("failed"), 20_000);
        expect(bench.connection.error.value).toBeNull();
        meet();
        await bench.on("relay");
        expect(bench.states.slice(-7)).toEqual(["retrying", ...FLOW]);
    });

    it("refused is refused on every road", async () => {
        bench.answers = "refused";
        bench.relay = never;
        bench.connection.connect();
        await bench.failed(ConnectionRefused as never);
        await vi.waitFor(() => expect(bench.ended).toBe(1), 20_000);
    });

    it("who is not trusted on the relay ends the connect, and a session on WebRTC", async () => {
        bench.relay = broken(new PeerNotTrusted("mallory"));
        bench.webrtc = never;
        bench.connection.connect();
        await bench.failed(PeerNotTrusted);
        const other = new Bench();
        let meet: (error: Error) => void = () => undefined;
        other.relay = () =>
            new Promise((_, reject) => {
                meet = reject;
            });
        other.force = "relay";
        other.connection.connect();
        await vi.waitFor(() => expect(other.meetings).toBe(1), 20_000);
        meet(new PeerNotTrusted("mallory"));
        await other.failed(PeerNotTrusted);
    });

    it("a refusal, which nobody has signed, ends no session that works", async () => {
        bench.webrtc = never;
        bench.connection.connect();
        await bench.on("relay");
        const session = bench.connection.session.value;
        await vi.waitFor(() => expect(bench.states).toContain("connecting"), 20_000);
        bench.refuse("not-trusted");
        await vi.waitFor(() => expect(bench.connection.relayReason).toBe("webrtc: no"), 20_000);
        expect(bench.connection.session.value).toBe(session);
        expect([session?.state.value, bench.connection.error.value]).toEqual(["open", null]);
    });

    it("forced: only that road, and the knock without an offer", async () => {
        bench.force = "relay";
        bench.connection.connect();
        await bench.on("relay");
        expect([bench.connection.relayReason, bench.policies]).toEqual(["forced", []]);
        for (const [force, policy, urls] of [
            ["direct", "all", [{ urls: ["stun:stun.test"] }]],
            [
                "turn",
                "relay",
                [{ urls: ["stun:stun.test", "turn:turn.test"], username: "u", credential: "c" }],
            ],
        ] as const) {
            const other = new Bench();
            other.force = force;
            other.connection.connect();
            await other.on("webrtc");
            expect([other.meetings, other.policies[0]]).toEqual([0, [policy, urls]]);
            other.connection.close();
        }
    });

    it("rerouted: the session goes over, and back", async () => {
        bench.relay = never;
        bench.connection.connect();
        await bench.on("webrtc");
        const session = bench.connection.session.value;
        bench.relay = async () => met("relay");
        bench.force = "relay";
        bench.connection.reroute();
        await bench.on("relay");
        bench.force = null;
        bench.relay = never;
        bench.connection.reroute();
        await bench.on("webrtc");
        expect(bench.connection.session.value).toBe(session);
    });

    it("STUN servers are no TURN servers", () => {
        expect(withoutTurn([{ urls: ["TURNS:t.test", "stun:s.test"] }, { urls: ["turn:t.test"] }])).toEqual([
            { urls: ["stun:s.test"] },
        ]);
    });
});
