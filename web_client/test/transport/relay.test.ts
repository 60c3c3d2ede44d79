// The relay wire over a relay in memory: lanes, order, release, and everything that a hostile relay might do.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
    ConnectFailed,
    DeadlineExceeded,
    PeerNotTrusted,
    ProtocolError,
    Unauthorized,
    WireClosed,
} from "../../src/protocol/errors.ts";
import type { Frame, Role } from "../../src/protocol/frames.ts";
import { type Lane, REQUIRED_LANES } from "../../src/protocol/lanes.ts";
import { LANE_LIMIT, MAX_FRAME } from "../../src/protocol/limits.ts";
import { type Bytes, signTranscript, verifyTranscript } from "../../src/protocol/proof.ts";
import { END } from "../../src/protocol/relay.ts";
import type { Prover } from "../../src/protocol/seal.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { openRelay, type RelayWire } from "../../src/transport/relay.ts";
import { seeded } from "../keys.ts";
import { MemoryRelay } from "./memory_relay.ts";

const SESSION = "session-0001";
const AGENT = "6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10";
const UNPROVED: Prover = { sign: async () => new Uint8Array(), verify: async () => undefined };
const NEVER = new AbortController().signal;

function enter(relay: MemoryRelay, role: Role, prover = UNPROVED, signal = NEVER): Promise<RelayWire> {
    const token = async () => `token of the ${role}`;
    return openRelay(
        {
            url: "ws://relay.test/relay/v1",
            role,
            sessionId: SESSION,
            agentId: AGENT,
            token,
            prover,
            timing: DEFAULT_TIMING,
            openSocket: relay.open,
        },
        signal,
    );
}

async function pair(relay = new MemoryRelay()): Promise<[RelayWire, RelayWire]> {
    return Promise.all([enter(relay, "client"), enter(relay, "agent")]);
}

function data(offset: number, payload: Uint8Array = new Uint8Array(1)): Frame {
    return { kind: "data", streamId: 1, offset, payload };
}

function collect(wire: RelayWire): [Lane, Frame][] {
    const got: [Lane, Frame][] = [];
    wire.start((lane, frame) => got.push([lane, frame]));
    return got;
}

async function signs(fill: number): Promise<{ prover: Prover; seen: () => string }> {
    const signer = await seeded(new Uint8Array(32).fill(fill));
    let seen = "";
    const prover: Prover = {
        sign: (transcript) => signTranscript(signer, transcript),
        verify: async (transcript, proof) => {
            seen = String(await verifyTranscript(transcript, proof));
        },
    };
    return { prover, seen: () => seen };
}

vi.setConfig({ testTimeout: 40_000 });

beforeEach(() => {
    for (const say of ["debug", "warn"] as const) vi.spyOn(console, say).mockImplementation(() => undefined);
});

describe("relay wire", () => {
    it("frames of every lane and size arrive, in order per lane", async () => {
        const [client, agent] = await pair();
        const got = collect(agent);
        collect(client);
        for (let at = 0; at < 40; at++)
            for (const lane of REQUIRED_LANES)
                client.send(lane, data(at, new Uint8Array(at === 20 ? MAX_FRAME - 32 : 1)));
        await vi.waitFor(() => expect(got.length).toBe(160), 20_000);
        for (const lane of REQUIRED_LANES)
            expect(got.filter(([on]) => on === lane).map(([, frame]) => frame)).toMatchObject(
                Array.from({ length: 40 }, (_, offset) => ({ offset })),
            );
        expect(() => client.send("control", data(0, new Uint8Array(MAX_FRAME)))).toThrow(RangeError);
        expect(await client.stats()).toMatchObject({
            kind: "relay",
            path: "through relay.test",
            buffered: 0,
        });
        client.close();
        expect(await agent.closed).toBe("the peer closed the connection");
    });

    it("a keystroke overtakes a file, of which only a window is under way", async () => {
        const [client, agent] = await pair();
        const got = collect(agent); // the client does not read, so it learns of nothing that was taken
        for (let at = 0; at < 100; at++) client.send("file-transfer", data(at, new Uint8Array(16 * 1024)));
        client.send("terminal-io", data(0));
        await vi.waitFor(
            () => expect(got.filter(([lane]) => lane === "terminal-io")).toHaveLength(1),
            20_000,
        );
        expect(got.length).toBeLessThan(20);
        const drained = client.drained("file-transfer");
        collect(client);
        await vi.waitFor(() => expect(got.length).toBe(101), 20_000);
        await drained;
        client.close();
    });

    it("what was sent before the close arrives", async () => {
        vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] }); // the limit on the last frames never comes
        const [client, agent] = await pair();
        const got = collect(agent);
        for (let at = 0; at < 5; at++) client.send("control", data(at));
        client.close("done");
        expect(await client.closed).toBe("done");
        expect(() => client.send("control", data(5))).toThrow(WireClosed);
        await expect(client.drained("control")).rejects.toThrow(WireClosed);
        await agent.closed;
        expect(got.length).toBe(5);
        vi.useRealTimers();
    });

    it("a farewell leaves before the call returns, and is the last", async () => {
        const relay = new MemoryRelay();
        const [client, agent] = await pair(relay);
        const got = collect(agent);
        const last: Frame = { kind: "reset", streamId: 0, code: "closed", message: "gone" };
        expect(client.farewell()).toBe(false); // it was not made ready
        client.prepareFarewell(last);
        await vi.waitFor(() => expect(client).toHaveProperty("last.sealed", expect.any(Uint8Array)));
        client.send("control", data(0));
        await vi.waitFor(() => expect(got).toHaveLength(1));
        const left: Bytes[] = [];
        relay.meddle = (_role, message) => {
            left.push(message);
            return [message];
        };
        client.send("control", data(1));
        expect(client.farewell()).toBe(true);
        expect(left).toHaveLength(1);
        expect(await client.closed).toBe("left");
        expect(() => client.send("control", data(2))).toThrow(WireClosed);
        expect(client.farewell()).toBe(false);
        await agent.closed;
        expect(got.map(([, frame]) => frame)).toEqual([expect.objectContaining({ offset: 0 }), last]);
    });

    it("a relay cannot say farewell for somebody", async () => {
        const relay = new MemoryRelay();
        const [client, agent] = await pair(relay);
        const got = collect(agent);
        relay.meddle = (_role, message) => [Uint8Array.of(0x83, ...message.slice(1))];
        client.send("control", { kind: "reset", streamId: 0, code: "closed", message: "gone" });
        expect(await agent.closed).toContain("not the peer's");
        expect(got).toEqual([]);
        client.close();
    });

    it("more than the limit on one lane ends it", async () => {
        const [client] = await pair();
        const frame = data(0, new Uint8Array(MAX_FRAME - 32));
        expect(() => {
            for (let at = 0; at <= LANE_LIMIT / MAX_FRAME + 8; at++) client.send("file-transfer", frame);
        }).toThrow(WireClosed);
        expect(await client.closed).toContain("wait on the lane");
    });

    it("both sides know whom they have met", async () => {
        const relay = new MemoryRelay();
        const [ours, theirs] = [await signs(1), await signs(2)];
        const wires = await Promise.all([
            enter(relay, "client", ours.prover),
            enter(relay, "agent", theirs.prover),
        ]);
        const keys = await Promise.all([2, 1].map(async (fill) => seeded(new Uint8Array(32).fill(fill))));
        expect([ours.seen(), theirs.seen()]).toEqual(keys.map(({ key }) => String(key)));
        for (const wire of wires) wire.close();
    });

    it("a newer token goes to the relay in time", async () => {
        const relay = new MemoryRelay();
        relay.tokenSeconds = 0.01;
        const [client, agent] = await pair(relay);
        collect(client);
        collect(agent);
        await vi.waitFor(
            () => expect(relay.words).toContainEqual({ event: "token", token: "token of the client" }),
            20_000,
        );
        client.send("control", data(0)); // and the answer is no news for the session
        client.close();
    });
});

describe("no relay wire", () => {
    it("no relay there, or one that refuses", async () => {
        const relay = new MemoryRelay();
        relay.down = true;
        await expect(enter(relay, "client")).rejects.toThrow("no relay at ws://relay.test/relay/v1");
        relay.down = false;
        relay.refuses = { code: END.forbidden, reason: "this agent is not yours" };
        await expect(enter(relay, "client")).rejects.toThrow(Unauthorized);
        relay.refuses = { code: END.busy, reason: "the relay has no room" };
        const busy = enter(relay, "client");
        await expect(busy).rejects.toThrow("the relay has no room");
        await expect(busy).rejects.toBeInstanceOf(ConnectFailed);
        expect(relay.sockets.every(({ over }) => over)).toBe(true);
    });

    it("no longer wanted: the socket is closed at once", async () => {
        const relay = new MemoryRelay();
        const wanted = new AbortController();
        const entering = enter(relay, "client", UNPROVED, wanted.signal);
        entering.catch(() => undefined);
        await vi.waitFor(() => expect(relay.words.length).toBe(1), 20_000);
        wanted.abort();
        await expect(entering).rejects.toThrow(ConnectFailed);
        expect(relay.sockets[0]?.over).toBe(true);
    });

    describe("nobody comes", () => {
        beforeEach(() => {
            vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
        });
        afterEach(() => {
            vi.useRealTimers();
        });

        it("ends in words", async () => {
            const relay = new MemoryRelay();
            const entering = enter(relay, "client");
            entering.catch(() => undefined);
            await new Promise<void>((resolve) => {
                const look = () =>
                    vi.getTimerCount() && relay.words.length ? resolve() : setImmediate(look);
                look();
            });
            for (let at = 0; at < 20; at++) await new Promise(setImmediate); // the words are on their way
            await vi.advanceTimersByTimeAsync(DEFAULT_TIMING.relayWait * 1000);
            await expect(entering).rejects.toThrow(DeadlineExceeded);
            expect([relay.sockets[0]?.over, vi.getTimerCount()]).toEqual([true, 0]);
        });
    });
});

describe("a hostile relay", () => {
    const flipped = (message: Bytes) =>
        message.map((byte, at) => (at === message.length - 1 ? byte ^ 1 : byte));

    it.each([
        ["changes", (message: Bytes) => [flipped(message)]],
        ["repeats", (message: Bytes) => [message, message]],
        ["cuts", (message: Bytes) => [message.slice(0, -1)]],
        ["invents", (message: Bytes) => [new Uint8Array(message.length), message]],
    ] as const)("%s a frame: the wire ends", async (_what, meddle) => {
        const relay = new MemoryRelay();
        const [client, agent] = await pair(relay);
        const got = collect(agent);
        collect(client);
        relay.meddle = (_role, message) => meddle(message);
        client.send("control", data(0));
        expect(await agent.closed).toContain("protocol error");
        expect(got.length).toBeLessThanOrEqual(1);
        await client.closed;
    });

    it("swaps or leaves out frames: the wire ends", async () => {
        const relay = new MemoryRelay();
        const [client, agent] = await pair(relay);
        const got = collect(agent);
        let first = true;
        relay.meddle = (_role, message) => {
            const gone = first;
            first = false;
            return gone ? [] : [message];
        };
        client.send("control", data(0));
        client.send("control", data(1));
        expect(await agent.closed).toContain("left out");
        expect(got).toEqual([]);
        client.close();
    });

    it("sends text, which is for the relay only", async () => {
        const relay = new MemoryRelay();
        const [client] = await pair(relay);
        collect(client);
        const ours = relay.sockets.find(({ role }) => role === "client");
        ours?.arrive(JSON.stringify({ event: "paired", tokenSeconds: 1, maxMessage: 1 }));
        expect(await client.closed).toContain("something else");
    });

    it("sits in the middle with keys of its own: the proof does not hold", async () => {
        const [outer, inner] = [new MemoryRelay(), new MemoryRelay()];
        const [ours, theirs, mallory] = [await signs(1), await signs(2), await signs(3)];
        // It shows the agent's proof of its own handshake with the agent, which is all it can have.
        let stolen: Bytes = new Uint8Array();
        const thief: Prover = {
            sign: mallory.prover.sign,
            verify: async (_transcript, proof) => {
                stolen = proof;
            },
        };
        const [falseClient] = await Promise.all([
            enter(inner, "client", thief),
            enter(inner, "agent", theirs.prover),
        ]);
        expect(stolen.length).toBe(96);
        const liar: Prover = { sign: async () => stolen, verify: async () => undefined };
        const [client] = await Promise.allSettled([
            enter(outer, "client", ours.prover),
            enter(outer, "agent", liar),
        ]);
        expect(client).toMatchObject({ status: "rejected", reason: expect.any(PeerNotTrusted) });
        falseClient.close();
    });

    it("answers the greeting with nonsense", async () => {
        const relay = new MemoryRelay();
        relay.meddle = (_role, message) => [flipped(message).slice(1)];
        const ends = await Promise.allSettled([enter(relay, "client"), enter(relay, "agent")]);
        expect(ends[0]).toMatchObject({ status: "rejected", reason: expect.any(ProtocolError) });
        expect(relay.sockets.every(({ over }) => over)).toBe(true);
    });
});
