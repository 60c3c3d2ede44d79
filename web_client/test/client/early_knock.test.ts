// A page that comes by another road too knocks without its offer only if that takes a while.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Connection } from "../../src/client/connection.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { AGENT, never, road, signaling } from "./fakes.ts";

const EARLY = DEFAULT_TIMING.earlyKnock * 1000;

beforeEach(() => {
    vi.useFakeTimers();
    for (const say of ["debug", "info"] as const) vi.spyOn(console, say).mockImplementation(() => undefined);
});

afterEach(() => {
    vi.useRealTimers();
});

it.each([
    [0, [[0, true]]],
    [EARLY / 2, [[EARLY / 2, true]]],
    [
        2 * EARLY,
        [
            [EARLY, false],
            [2 * EARLY, true],
        ],
    ],
])("an offer that takes %i ms", async (gathers, expected) => {
    const since = performance.now();
    const knocks: [number, boolean][] = [];
    const connection = new Connection({
        agentId: AGENT,
        iceServers: [],
        timing: DEFAULT_TIMING,
        agents: {
            joined: async () => undefined,
            send: async (_event, { offer }) =>
                void knocks.push([Math.round(performance.now() - since), offer !== undefined]),
            listen: () => () => undefined,
        },
        signaling,
        makePeer: () => ({
            onCandidate: null,
            createOffer: async () => {
                await new Promise((resolve) => setTimeout(resolve, gathers));
                return "v=0\r\na=ice-ufrag:abcd\r\n";
            },
            applyAnswer: async () => undefined,
            addCandidate: async () => undefined,
            wire: never,
            close: () => undefined,
        }),
        roads: [road("relay", never, () => undefined)],
    });
    connection.connect();
    await vi.advanceTimersByTimeAsync(4 * EARLY);
    expect(knocks).toEqual(expected);
    connection.close();
    await vi.advanceTimersByTimeAsync(0);
    expect(vi.getTimerCount()).toBe(0);
});
