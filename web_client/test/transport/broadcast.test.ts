// The broadcast wire on a bus in memory that behaves, does not, or lies.

import { describe, expect, it, vi } from "vitest";
import { DeadlineExceeded, InvalidInput, Unauthorized, WireClosed } from "../../src/protocol/errors.ts";
import type { Frame, Role } from "../../src/protocol/frames.ts";
import type { Lane } from "../../src/protocol/lanes.ts";
import { BROADCAST_BURST, BROADCAST_HIGH_WATER, BROADCAST_RATE } from "../../src/protocol/limits.ts";
import { DEFAULT_TIMING, type Timing } from "../../src/protocol/timing.ts";
import { type BroadcastWire, openBroadcast } from "../../src/transport/broadcast.ts";
import { MemoryBus } from "./memory_bus.ts";

const AGENT = "6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10";
const NOBODY = { sign: async () => new Uint8Array(), verify: async () => undefined };
const PATIENCE = 30_000;

function side(bus: MemoryBus, role: Role, timing: Timing = DEFAULT_TIMING, stop = new AbortController()) {
    const ids = { sessionId: "session-0001", agentId: AGENT };
    return openBroadcast({ signaling: bus.signaling(), role, ...ids, prover: NOBODY, timing }, stop.signal);
}

async function pair(bus: MemoryBus): Promise<[BroadcastWire, BroadcastWire]> {
    return Promise.all([side(bus, "client"), side(bus, "agent")]);
}

function inbox(wire: BroadcastWire): [Lane, Frame][] {
    const frames: [Lane, Frame][] = [];
    wire.start((lane, frame) => frames.push([lane, frame]));
    return frames;
}

function bytesOf(frames: readonly [Lane, Frame][]): number[] {
    return frames.flatMap(([, frame]) => (frame.kind === "data" ? [...frame.payload] : []));
}

function data(offset: number, payload: Uint8Array): Frame {
    return { kind: "data", streamId: 1, offset, payload };
}

const until = (check: () => void) => vi.waitFor(check, { timeout: PATIENCE, interval: 5 });

describe("broadcast wire", { timeout: 2 * PATIENCE }, () => {
    it("carries frames both ways, the most urgent first, and ends for both", async () => {
        const bus = new MemoryBus();
        const [client, agent] = await pair(bus);
        const [heard, echoed] = [inbox(agent), inbox(client)];
        client.send("terminal-io", data(0, Uint8Array.of(1)));
        client.send("control", { kind: "ping", timestamp: 1 });
        agent.send("control", { kind: "pong", timestamp: 2 });
        await until(() => expect([heard.length, echoed.length]).toEqual([2, 1]));
        expect(heard.map(([lane]) => lane)).toEqual(["control", "terminal-io"]);
        expect(client.kind).toBe("broadcast");
        client.send("control", { kind: "ping", timestamp: 3 });
        client.close("enough");
        expect(await client.closed).toBe("enough");
        expect(await agent.closed).toBe("the peer says: the connection was closed");
        expect(heard.at(-1)).toEqual(["control", { kind: "ping", timestamp: 3 }]);
        expect(() => client.send("control", { kind: "ping", timestamp: 1 })).toThrow(WireClosed);
        await until(() => expect(bus.members.size).toBe(0));
    });

    it("a farewell leaves before the call returns, after what is under way", async () => {
        const bus = new MemoryBus();
        const [client, agent] = await pair(bus);
        const heard = inbox(agent);
        const last: Frame = { kind: "reset", streamId: 0, code: "closed", message: "gone" };
        expect(client.farewell()).toBe(false);
        client.prepareFarewell(last);
        await until(() => expect(client).toHaveProperty("last.sealed", expect.any(Uint8Array)));
        const before = bus.said.length;
        expect(client.farewell()).toBe(true);
        expect(bus.said.length).toBeGreaterThan(before);
        await agent.closed;
        expect(heard).toEqual([["control", last]]);
        await until(() => expect(bus.members.size).toBe(0));
    });

    it("whoever comes later hears what was said before", async () => {
        const bus = new MemoryBus();
        const early = side(bus, "agent");
        await until(() => expect(bus.said.length).toBeGreaterThan(1));
        const [client, agent] = [await side(bus, "client"), await early];
        client.close();
        agent.close();
    });

    it("a flood is whole, paced, and waits for room", async () => {
        const bus = new MemoryBus();
        const [client, agent] = await pair(bus);
        const heard = inbox(client);
        const content = Uint8Array.from({ length: 200_000 }, (_, at) => (at * 7 + (at >> 8)) % 256);
        const [since, before] = [performance.now(), bus.said.length];
        for (let at = 0; at < content.length; at += 16_000) {
            await agent.drained("terminal-io");
            expect((await agent.stats()).buffered).toBeLessThanOrEqual(BROADCAST_HIGH_WATER);
            agent.send("terminal-io", data(at, content.slice(at, at + 16_000)));
        }
        await until(() => expect(bytesOf(heard).length).toBe(content.length));
        expect(bytesOf(heard)).toEqual([...content]);
        const said = bus.said.slice(before).filter(({ role }) => role === "agent").length;
        const seconds = (performance.now() - since) / 1000;
        expect(said).toBeLessThanOrEqual(BROADCAST_BURST + BROADCAST_RATE * (seconds + 0.1));
        client.close();
        agent.close();
    });

    it("lost, doubled, late and reordered broadcasts lose nothing; nor does a channel that comes and goes", async () => {
        const bus = new MemoryBus();
        let turn = 0;
        bus.arrivals = () => {
            turn += 1;
            if (turn % 5 === 0) return [];
            return turn % 3 === 0 ? [30, 90] : [(turn * 37) % 80];
        };
        const [client, agent] = await pair(bus);
        const heard = inbox(client);
        let sent = 0;
        for (let round = 0; round < 12; round++) {
            agent.send(
                "terminal-io",
                data(
                    sent,
                    Uint8Array.from({ length: 900 }, (_, at) => (sent + at) % 251),
                ),
            );
            sent += 900;
            if (round === 6) {
                bus.drop();
                setTimeout(() => bus.restore(), 200);
            }
            await new Promise((resolve) => setTimeout(resolve, 60));
        }
        await until(() => expect(bytesOf(heard).length).toBe(sent));
        expect(bytesOf(heard)).toEqual(Array.from({ length: sent }, (_, at) => at % 251));
        client.close();
        agent.close();
    });

    it("bulk is not carried", async () => {
        const [client, agent] = await pair(new MemoryBus());
        expect(client.traits.lanes.has("file-transfer")).toBe(false);
        expect(() => client.send("file-transfer", data(0, Uint8Array.of(1)))).toThrow(InvalidInput);
        client.close();
        agent.close();
    });

    it("what the back end changes ends the wire; it reads nothing", async () => {
        const bus = new MemoryBus();
        const [client, agent] = await pair(bus);
        inbox(agent);
        bus.lie = (payload) => {
            const text = String(payload.data ?? "");
            return text === ""
                ? payload
                : { ...payload, data: `${text.startsWith("A") ? "B" : "A"}${text.slice(1)}` };
        };
        client.send("terminal-io", data(0, new TextEncoder().encode("a secret word")));
        expect(await agent.closed).toMatch(/^protocol error/);
        const said = bus.said.map(({ data: text }) => atob(String(text ?? ""))).join("");
        expect(said).not.toContain("secret");
        client.close();
    });

    it("nobody comes, nobody may come, nobody is wanted", async () => {
        const bus = new MemoryBus();
        const hasty = { ...DEFAULT_TIMING, broadcastWait: 0.2 };
        await expect(side(bus, "client", hasty)).rejects.toThrow(DeadlineExceeded);
        bus.refuses = true;
        await expect(side(bus, "client")).rejects.toThrow(Unauthorized);
        bus.refuses = false;
        const stop = new AbortController();
        const opening = side(bus, "client", DEFAULT_TIMING, stop);
        await until(() => expect(bus.said.length).toBeGreaterThan(0));
        stop.abort();
        await expect(opening).rejects.toThrow("no longer wanted");
        await until(() => expect(bus.members.size).toBe(0));
    });

    it("a peer that vanishes is noticed by who has something to say", async () => {
        const bus = new MemoryBus();
        const hasty = { ...DEFAULT_TIMING, broadcastResend: 0.05, broadcastResendCap: 0.1 };
        const [client, agent] = await Promise.all([side(bus, "client", hasty), side(bus, "agent", hasty)]);
        bus.arrivals = () => [];
        inbox(client);
        client.send("control", { kind: "ping", timestamp: 1 });
        expect(await client.closed).toBe("the peer does not answer any more");
        await expect(client.drained("control")).rejects.toThrow(WireClosed);
        agent.close();
    });
});
