// A limit of the back end: who has nothing asks again soon, who has a wire does not knock into it.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Connection } from "../../src/client/connection.ts";
import { ConnectFailed, SignalingLost } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { wirePair } from "../runtime/memory_wire.ts";
import { agentAt } from "../runtime/resuming.ts";

beforeEach(() => {
    vi.useFakeTimers({
        toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance"],
    });
    for (const say of ["debug", "info"] as const) vi.spyOn(console, say).mockImplementation(() => undefined);
});

afterEach(() => {
    vi.useRealTimers();
});

it.each([
    [true, 1],
    [false, 3],
])("the relay carries: %s", async (carried, knocks) => {
    let sent = 0;
    const connection = new Connection({
        agentId: "00000000-0000-4000-8000-000000000001",
        iceServers: [],
        timing: DEFAULT_TIMING,
        agents: {
            joined: async () => undefined,
            send: async () => {
                sent += 1;
                await new Promise((resolve) => setTimeout(resolve, 100));
                throw new SignalingLost("the agents channel is not joined (Too many messages per second)");
            },
            listen: () => () => undefined,
        },
        signaling: {
            join: async ({ topic }) => ({
                topic,
                state: "joined",
                send: async () => undefined,
                leave: async () => undefined,
            }),
        },
        makePeer: () => ({
            onCandidate: null,
            createOffer: async () => "v=0\r\na=ice-ufrag:abcd\r\n",
            applyAnswer: async () => undefined,
            addCandidate: async () => undefined,
            wire: () => new Promise<Wire>(() => undefined),
            close: () => undefined,
        }),
        roads: [
            {
                kind: "relay",
                meet: (_meeting, signal) =>
                    new Promise<Wire>((resolve, reject) => {
                        signal.addEventListener("abort", () => reject(new ConnectFailed("ended")));
                        if (!carried) return;
                        const [left, right] = wirePair();
                        const agent = agentAt(right);
                        const greet = agent.answer;
                        agent.answer = (frame, send) => {
                            if (frame.kind === "ping") send({ kind: "pong", timestamp: frame.timestamp });
                            greet(frame, send);
                        };
                        resolve(Object.assign(left, { kind: "relay" }));
                    }),
            },
        ],
    });
    connection.connect();
    for (let ms = 0; ms < 13_000; ms += 50) {
        await vi.advanceTimersByTimeAsync(50);
        await new Promise((resolve) => setImmediate(resolve)); // frames travel in real turns
    }
    expect(connection.session.value !== null).toBe(carried);
    if (carried) expect(sent).toBe(knocks);
    else expect(sent).toBeGreaterThanOrEqual(knocks);
    connection.close();
});
