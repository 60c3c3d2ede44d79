// A conversation that uses every kind of frame, disturbed at every one: nothing lost, nothing twice, nothing left.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RemoteError, SessionClosed, WireClosed } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { Session } from "../../src/runtime/session.ts";
import type { Stream } from "../../src/runtime/stream.ts";
import { counted, type Disturbance, LastingAgent, Storm } from "./weather.ts";

const POURED = 300_000; // more than a window: the page's WINDOW frames are needed
const WRITTEN = 700; // seven windows of the agent

async function readAll(stream: Stream): Promise<Buffer> {
    const got: Uint8Array[] = [];
    for (let chunk = await stream.read(); chunk; chunk = await stream.read()) got.push(chunk);
    return Buffer.concat(got);
}

const ECHOED = counted(WRITTEN);
const ALL_POURED = counted(POURED);

/** Hold the conversation in this weather; return how many frames it took. */
async function converse(at: ReadonlyMap<number, Disturbance>, seed = 1): Promise<number> {
    const storm = new Storm(at, seed);
    const agent = new LastingAgent();
    const session = new Session("session-1", DEFAULT_TIMING);
    const anotherWire = async (): Promise<void> => {
        const [left, right] = storm.pair();
        agent.attend(right);
        try {
            await session.carry(left);
        } catch (error) {
            // It was cut, and there will be another; or all has been said, as the end of the session tells.
            if (!(error instanceof WireClosed || error instanceof SessionClosed)) throw error;
        }
    };
    const carried: Promise<void>[] = [];
    const another = (): void => void carried.push(anotherWire());
    storm.disturb = (what, wire) => {
        if (session.state.value === "new" || session.state.value === "greeting") return; // no session yet
        if (what === "cut") wire.cut();
        else if (what === "close") wire.close();
        else another();
        if (what === "change and cut") wire.cut();
        if (what === "two at once") another();
    };
    const keep = session.state.watch((state) => {
        // A task later, as a Keeper would: nothing carries it, and nothing is being greeted.
        if (state === "away") setImmediate(() => session.state.value === "away" && another());
    });
    const keeping = setInterval(() => session.state.value === "away" && another(), 20);
    try {
        const [left, right] = storm.pair();
        agent.attend(right);
        await session.start(left);
        await talk(session, agent);
        await expect.poll(() => agent.streams.size, { timeout: 20_000, interval: 1 }).toBe(0);
        await expect
            .poll(async () => (await session.stats())?.unacknowledged, { timeout: 20_000, interval: 1 })
            .toBe(0);
        await Promise.all(carried);
    } finally {
        keep();
        clearInterval(keeping);
        session.close("said everything");
    }
    expect(await session.closed).toBe("said everything");
    return storm.frames;
}

async function talk(session: Session, agent: LastingAgent): Promise<void> {
    const calls = Array.from({ length: 6 }, (_, index) => session.call("test.echo", { index }));
    const echo = await session.open("test", "echo", {}, "terminal-io");
    expect(echo.result).toEqual({ method: "echo" });
    const writing = (async () => {
        for (let at = 0; at < WRITTEN; at += 50) await echo.write(ECHOED.subarray(at, at + 50));
        await echo.finish({ done: true });
    })();
    const pour = await session.open("test", "pour", { bytes: POURED }, "file-transfer");
    const refused = session.open("test", "nothing", {}, "terminal-io");
    refused.catch(() => undefined); // looked at below
    agent.open(2);
    const [echoed, poured] = await Promise.all([readAll(echo), readAll(pour), writing]);
    await pour.finish();
    expect([echoed.length, echoed.equals(ECHOED)]).toEqual([WRITTEN, true]);
    expect([poured.length, poured.equals(ALL_POURED)]).toEqual([POURED, true]);
    expect([echo.trailer, pour.trailer]).toEqual([{ sent: WRITTEN }, { sent: POURED }]);
    await expect(refused).rejects.toBeInstanceOf(RemoteError);
    const held = await session.open("test", "hold", {}, "terminal-io");
    await held.write(ECHOED.subarray(0, 30));
    held.reset("cancelled", "enough");
    await expect(held.read()).rejects.toThrow("reset");
    expect(await Promise.all(calls)).toEqual(Array.from({ length: 6 }, (_, index) => ({ index })));
    expect([...agent.ran.values()]).toEqual(Array(6).fill(1));
    await expect.poll(() => agent.resets, { timeout: 20_000, interval: 1 }).toContain("2 unknown-route");
}

const AT_ONCE = 12;
const ALL: Disturbance[] = ["cut", "close", "change", "change and cut", "two at once"];

describe("a conversation", () => {
    it.each(ALL)("%s at every single frame", { timeout: 240_000 }, async (what) => {
        const frames = await converse(new Map());
        expect(frames).toBeGreaterThan(80);
        const disturbed = async (number: number) => {
            try {
                await converse(new Map([[number, what]]));
            } catch (error) {
                (error as Error).message += ` – ${what} at frame ${number}`;
                throw error;
            }
        };
        for (let first = 1; first <= frames; first += AT_ONCE)
            await Promise.all(Array.from({ length: AT_ONCE }, (_, index) => disturbed(first + index)));
    });

    it("many disturbances in one conversation", { timeout: 240_000 }, async () => {
        const storm = fc.array(fc.tuple(fc.integer({ min: 1, max: 400 }), fc.constantFrom(...ALL)), {
            maxLength: 30,
        });
        await fc.assert(
            fc.asyncProperty(storm, fc.integer({ min: 1, max: 2 ** 30 }), async (at, seed) => {
                await converse(new Map(at), seed);
            }),
            { numRuns: 60 },
        );
    });
});
