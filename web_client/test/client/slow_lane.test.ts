// A road that costs is taken when the others have failed or are late, and called off when one has not.

import { describe, expect, it } from "vitest";
import { type Force, Roads } from "../../src/client/roads.ts";
import { ConnectFailed } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { WirePool } from "../../src/transport/pool.ts";
import type { Road } from "../../src/transport/road.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { wirePair } from "../runtime/memory_wire.ts";
import { AGENT, AgentsChannel, never, peer, road, signaling } from "./fakes.ts";

const HASTY = { ...DEFAULT_TIMING, broadcastPause: 0.1, broadcastAfter: 0.4 };
const failing = async (): Promise<Wire> => {
    throw new ConnectFailed("no relay there");
};

function wire(kind: string): Wire {
    return Object.assign(wirePair()[0], { kind });
}

class Bench {
    readonly came: string[] = [];
    readonly ended: string[] = [];
    readonly carried: string[] = [];
    readonly knocks: unknown[] = [];
    readonly since = performance.now();
    readonly pool: WirePool;
    private readonly agents = new AgentsChannel((_event, payload) => this.knocked(payload));

    constructor(webrtc: () => Promise<Wire>, relay: () => Promise<Wire>, force: Force | null = null) {
        const roads = new Roads({
            agentId: AGENT,
            sessionId: "session-0001",
            iceServers: [],
            timing: HASTY,
            agents: this.agents,
            signaling,
            makePeer: () => peer(webrtc),
            roads: [
                this.road("relay", relay),
                { ...this.road("broadcast", async () => wire("broadcast")), costly: true },
            ],
            force,
        });
        this.pool = new WirePool(
            roads.openers,
            async (one) => {
                this.carried.push(one.kind);
            },
            HASTY,
        );
    }

    get seconds(): number {
        return (performance.now() - this.since) / 1000;
    }

    private road(kind: string, meet: () => Promise<Wire>): Road {
        const come = () => {
            this.came.push(kind);
            return meet();
        };
        return road(kind, come, () => this.ended.push(kind));
    }

    private knocked({ sessionId, capabilities = [], offer }: Record<string, unknown>): void {
        this.knocks.push(capabilities);
        const answer = offer ? { answer: "v=0" } : {};
        this.agents.say("connection-ready", { agentId: AGENT, sessionId, capabilities, ...answer });
    }
}

describe("a road that costs", { timeout: 40_000 }, () => {
    it("is asked for at once and taken when there is no relay, after a moment for WebRTC", async () => {
        const bench = new Bench(never, failing);
        await bench.pool.open();
        expect(bench.carried).toEqual(["broadcast"]);
        expect(bench.seconds).toBeGreaterThanOrEqual(0.09);
        expect(bench.knocks[0]).toContain("broadcast");
        await bench.pool.close();
    });

    it("is taken when the relay is late", async () => {
        const bench = new Bench(never, never);
        await bench.pool.open();
        expect(bench.carried).toEqual(["broadcast"]);
        expect(bench.seconds).toBeGreaterThanOrEqual(0.49);
        await bench.pool.close();
    });

    it("is not taken when the relay or WebRTC carries the session", async () => {
        for (const bench of [
            new Bench(never, async () => wire("relay")),
            new Bench(async () => wire("webrtc"), never),
        ]) {
            await bench.pool.open();
            await new Promise((resolve) => setTimeout(resolve, 700));
            expect(bench.came).not.toContain("broadcast");
            await bench.pool.close();
        }
    });

    it("forced, it is taken at once", async () => {
        const bench = new Bench(never, never, "broadcast");
        await bench.pool.open();
        expect(bench.came).toEqual(["broadcast"]);
        expect(bench.knocks).toEqual([["broadcast"]]);
        await bench.pool.close();
    });
});
