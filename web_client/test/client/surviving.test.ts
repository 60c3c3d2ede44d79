// One session over many connects: what it keeps, what the page is told, and what comes after its end.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SessionClosed } from "../../src/protocol/errors.ts";
import type { Session } from "../../src/runtime/session.ts";
import { agentAt, turns } from "../runtime/resuming.ts";
import { Bench, FLOW } from "./bench.ts";

const STORY = FLOW.map((state) => `${state} 1`);

let bench: Bench;
let session: Session;

/** Let what is under way come to its end, at this time. */
async function settle(): Promise<void> {
    for (let round = 0; round < 10; round++) {
        await turns(5);
        await vi.advanceTimersByTimeAsync(0);
    }
}

beforeEach(async () => {
    vi.useFakeTimers({
        toFake: ["setInterval", "clearInterval", "setTimeout", "clearTimeout", "performance"],
    });
    vi.spyOn(console, "warn").mockImplementation(() => undefined);
    vi.spyOn(console, "info").mockImplementation(() => undefined);
    bench = new Bench();
    bench.greet = (wire) => agentAt(wire);
    bench.connection.connect();
    await settle();
    expect(bench.states).toEqual(STORY);
    session = bench.connection.session.value as Session;
});
afterEach(async () => {
    bench.connection.close();
    await settle();
    await vi.advanceTimersByTimeAsync(3_000); // farewells
    expect([bench.open, [...bench.joined]]).toEqual([0, []]);
    vi.useRealTimers();
});

describe("a session whose wire is lost", () => {
    it("goes on from requesting, under its own name", async () => {
        bench.agentWire?.close("gone");
        await settle();
        expect(bench.states).toEqual([...STORY, ...STORY]);
        expect(bench.connection.session.value).toBe(session);
        expect(session.state.value).toBe("open");
        expect(bench.knocks).toEqual([session.id, session.id]);
    });

    it("is tried for beyond the limit of one connect, and ends after 300 s in words", async () => {
        bench.answers = "never";
        bench.agentWire?.close("gone");
        await settle();
        await vi.advanceTimersByTimeAsync(60_000);
        expect([session.state.value, bench.connection.error.value]).toEqual(["away", null]);
        expect(bench.states.filter((state) => state === "requesting 1").length).toBeGreaterThan(2);
        await vi.advanceTimersByTimeAsync(240_000);
        await settle();
        expect(bench.connection.error.value).toBeInstanceOf(SessionClosed);
        expect(bench.connection.error.value?.message).toContain("no wire for 300 s");
        expect([bench.connection.session.value, bench.connection.status.value.state]).toEqual([
            null,
            "failed",
        ]);
        const knocks = bench.knocks.length;
        await vi.advanceTimersByTimeAsync(60_000);
        expect(bench.knocks.length).toBe(knocks);
        bench.answers = "express";
        bench.connection.hurry("awake again");
        await settle();
        expect(bench.connection.status.value.state).toBe("connected");
        expect(bench.knocks.at(-1)).not.toBe(session.id);
    });

    it("is followed by another when the agent has forgotten it", async () => {
        let greeted = 0;
        bench.greet = (wire) => agentAt(wire, greeted++ === 0 ? null : undefined);
        bench.agentWire?.close("gone");
        await settle();
        expect(session.state.value).toBe("closed");
        const next = bench.connection.session.value;
        expect([next?.state.value, next === session]).toEqual(["open", false]);
        expect(bench.knocks).toEqual([session.id, session.id, next?.id]);
        expect(bench.connection.status.value.state).toBe("connected");
    });

    it("is given up with all that is under way when the user leaves", async () => {
        bench.answers = "never";
        bench.agentWire?.close("gone");
        await settle();
        expect(session.state.value).toBe("away");
        bench.connection.close();
        expect([session.state.value, bench.connection.status.value.state]).toEqual(["closed", "idle"]);
        bench.connection.hurry("online again");
        await vi.advanceTimersByTimeAsync(60_000);
        expect(bench.connection.session.value).toBeNull();
    });
});

describe("a session whose wire is silent when the page wakes", () => {
    it("has another within a second or so, and is never without one", async () => {
        const states: string[] = [];
        session.state.watch((state) => states.push(state));
        bench.connection.hurry("awake again");
        await vi.advanceTimersByTimeAsync(1_000);
        await settle();
        expect([bench.peers, states]).toEqual([2, []]);
        await expect(session.stats()).resolves.toMatchObject({ wires: 2 });
    });
});

it("sessions that end as soon as they begin are not begun without a pause", async () => {
    bench.greet = (wire) => {
        const agent = agentAt(wire);
        setTimeout(() => agent.send({ kind: "reset", streamId: 0, code: "closed", message: "no" }), 1);
        return agent;
    };
    bench.agentWire?.close("gone");
    for (let second = 0; second < 10; second++) {
        await settle();
        await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(bench.knocks.length).toBeLessThan(10);
    expect(bench.connection.error.value).toBeNull();
});
