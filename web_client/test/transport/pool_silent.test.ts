// A better wire that opened and says nothing does not hold the session up.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { WireClosed } from "../../src/protocol/errors.ts";
import { type Carry, WirePool } from "../../src/transport/pool.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { MemoryWire } from "../runtime/memory_wire.ts";

const TIMING = { improveFirst: 15, improveCap: 60, silence: 3 };
let silent = 1;
let tries = 0;
let relayAfter = 0;
let release: () => void = () => undefined;
let pool: WirePool;
const wires: Record<string, Wire> = {};

/** As a session does: a wire that is closed is not carried. */
const carry: Carry = async (wire) => {
    if (!Object.is(wire, wires.webrtc) || silent-- <= 0) return;
    await Promise.race([
        new Promise<void>((resolve) => {
            release = resolve;
        }),
        wire.closed.then((reason) => Promise.reject(new WireClosed(reason))),
    ]);
};

beforeEach(() => {
    vi.useFakeTimers();
    vi.spyOn(console, "debug").mockImplementation(() => undefined);
    [silent, tries, relayAfter] = [1, 0, 0];
    const webrtc = async (take: Carry) => {
        tries += 1;
        wires.webrtc = new MemoryWire();
        await take(wires.webrtc);
    };
    const relay = async (take: Carry) => {
        await new Promise((resolve) => setTimeout(resolve, relayAfter * 1000));
        wires.relay = new MemoryWire();
        await take(wires.relay);
    };
    pool = new WirePool(
        [
            { kind: "webrtc", open: webrtc },
            { kind: "relay", open: relay },
        ],
        carry,
        TIMING,
    );
});

afterEach(async () => {
    await pool.close();
    await vi.advanceTimersByTimeAsync(0);
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
});

it.each([0, 1, 3, 6])("the relay, ready after %i s, carries after the silence", async (after) => {
    relayAfter = after;
    const seen: string[] = [];
    pool.wire.watch((wire) => seen.push(wire === wires.relay ? "relay" : "webrtc"));
    const opened = pool.open();
    await vi.advanceTimersByTimeAsync(Math.max(after, 3) * 1000 - 1);
    expect(seen).toEqual([]);
    await vi.advanceTimersByTimeAsync(2);
    await opened;
    await vi.advanceTimersByTimeAsync(1);
    expect(seen).toEqual(["relay", "webrtc"]); // its second one is not silent
    expect(tries).toBe(2);
});

it("without another wire it has its time", async () => {
    relayAfter = 60;
    const opened = pool.open();
    await vi.advanceTimersByTimeAsync(14_000);
    release();
    await opened;
    expect(pool.wire.value).toBe(wires.webrtc);
    expect(tries).toBe(1);
    await vi.advanceTimersByTimeAsync(60_000);
});
