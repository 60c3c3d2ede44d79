// The adapter loop with an agent behind an in-memory bus and wire: the order of things, retries, loss, release.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { AgentUnreachable, ConnectionRefused, Unauthorized } from "../../src/protocol/errors.ts";
import { Bench, FLOW, LONG } from "./bench.ts";

beforeEach(() => {
    vi.spyOn(console, "warn").mockImplementation(() => undefined); // the nonsense on the bus is reported there
});

describe("connection", () => {
    it.each(["express", "plain"] as const)("%s: every state once and in order", async (answers) => {
        const bench = new Bench();
        bench.answers = answers;
        bench.connection.connect();
        await bench.until("connected");
        expect(bench.states).toEqual(FLOW.map((state) => `${state} 1`));
        expect(bench.connection.session.value?.peer).toMatchObject({ name: "atelier" });
        expect(bench.sent).toContain("connection-request+offer");
        await vi.waitFor(() => expect([...bench.joined]).toEqual([]), LONG);
        bench.connection.close();
        expect([bench.connection.session.value, bench.states.at(-1)]).toEqual([null, "idle 1"]);
        await bench.released();
    });

    it("a lost wire connects again, with a new peer", async () => {
        const bench = new Bench();
        bench.connection.connect();
        await bench.until("connected");
        const first = bench.connection.session.value;
        bench.agentWire?.close("gone");
        const flow = FLOW.map((state) => `${state} 1`);
        await vi.waitFor(() => expect(bench.states).toEqual([...flow, ...flow]), LONG);
        expect(bench.connection.session.value).not.toBe(first);
        expect(bench.peers).toBe(2);
        bench.connection.close();
        await bench.released();
    });

    it("refused and denied are final, and can be tried again by hand", async () => {
        const bench = new Bench();
        bench.answers = "refused";
        bench.connection.connect();
        await bench.until("failed");
        expect(bench.connection.error.value).toBeInstanceOf(ConnectionRefused);
        bench.denied = true;
        bench.connection.connect();
        await vi.waitFor(() => expect(bench.connection.error.value).toBeInstanceOf(Unauthorized), LONG);
        bench.denied = false;
        bench.answers = "express";
        bench.connection.connect();
        await bench.until("connected");
        expect(bench.connection.error.value).toBeNull();
        bench.connection.close();
    });
});

describe("an agent that never answers", () => {
    beforeEach(() => {
        vi.useFakeTimers();
    });
    afterEach(() => {
        vi.useRealTimers();
    });

    it("ends after 4 attempts and 29 s, with nothing left behind", async () => {
        const bench = new Bench();
        bench.answers = "never";
        bench.connection.connect();
        await vi.advanceTimersByTimeAsync(28_900);
        expect(bench.connection.error.value).toBeNull();
        await vi.advanceTimersByTimeAsync(200);
        expect(bench.connection.error.value).toBeInstanceOf(AgentUnreachable);
        const attempt = (n: number) => [`requesting ${n}`, `waiting-ready ${n}`, `failed ${n}`];
        expect(bench.states).toEqual(
            [1, 2, 3, 4].flatMap((n) => [...attempt(n), ...(n < 4 ? [`retrying ${n}`] : [])]),
        );
        expect([bench.open, [...bench.joined], vi.getTimerCount()]).toEqual([0, [], 0]);
    });
});
