// An agent that has promised to come by a road is waited for as long as somebody knocks, and not much longer.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Connection } from "../../src/client/connection.ts";
import { ConnectFailed } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { wirePair } from "../runtime/memory_wire.ts";
import { agentAt } from "../runtime/resuming.ts";
import { AGENT, signaling } from "./fakes.ts";

/** The fourth attempt knocks, and fails at once: no peer can be made. */
const LAST_KNOCK = 3 * DEFAULT_TIMING.retryPause;
let connection: Connection;
let arrive: () => void = () => undefined;
let knocks = 0;

beforeEach(() => {
    vi.useFakeTimers();
    for (const say of ["debug", "info"] as const) vi.spyOn(console, say).mockImplementation(() => undefined);
    knocks = 0;
    let listener: (event: string, payload: unknown) => void = () => undefined;
    connection = new Connection({
        agentId: AGENT,
        iceServers: [],
        timing: { ...DEFAULT_TIMING, total: 60 },
        agents: {
            joined: async () => undefined,
            send: async (_event, { sessionId, capabilities }) => {
                knocks += 1;
                listener("connection-ready", { agentId: AGENT, sessionId, capabilities });
            },
            listen: (heard) => {
                listener = heard;
                return () => undefined;
            },
        },
        signaling,
        makePeer: () => {
            throw new Error("no peer here");
        },
        roads: [
            {
                kind: "relay",
                meet: (_meeting, signal) =>
                    new Promise<Wire>((resolve, reject) => {
                        signal.addEventListener("abort", () => reject(new ConnectFailed("ended")));
                        arrive = () => {
                            const [left, right] = wirePair();
                            agentAt(right);
                            resolve(Object.assign(left, { kind: "relay" }));
                        };
                    }),
            },
        ],
    });
});

afterEach(async () => {
    connection.close();
    await vi.advanceTimersByTimeAsync(1000);
    vi.useRealTimers();
});

it("one that never comes has its time from its last promise", async () => {
    connection.connect();
    await vi.advanceTimersByTimeAsync((LAST_KNOCK + DEFAULT_TIMING.promise) * 1000 - 100);
    expect(connection.error.value).toBeNull();
    expect(knocks).toBe(3); // the first attempt fails before its offer is ready, and before it would knock without
    await vi.advanceTimersByTimeAsync(200);
    expect(connection.error.value).toBeInstanceOf(ConnectFailed);
});

it("one that comes before that is in time", async () => {
    connection.connect();
    await vi.advanceTimersByTimeAsync((LAST_KNOCK + DEFAULT_TIMING.promise) * 1000 - 100);
    arrive();
    await vi.advanceTimersByTimeAsync(90);
    expect(connection.session.value).not.toBeNull();
    await vi.advanceTimersByTimeAsync(5000);
    expect(connection.error.value).toBeNull();
});
