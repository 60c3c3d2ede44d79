// Keeping a session in touch: when another wire is made, when it is waited, and what ends the session.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Keeper } from "../../src/client/keeper.ts";
import { AgentUnreachable, PeerNotTrusted, Unauthorized } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import type { Session } from "../../src/runtime/session.ts";
import type { MemoryWire, ScriptedAgent } from "../runtime/memory_wire.ts";
import { begun, turns, wireTo } from "../runtime/resuming.ts";

class Bench {
    tries = 0;
    hurried = 0;
    /** What the next tries come to; undefined is a new wire. */
    errors: Error[] = [];
    agent: ScriptedAgent;
    readonly keeper: Keeper;
    readonly session: Session;

    private constructor(session: Session, agent: ScriptedAgent) {
        this.session = session;
        this.agent = agent;
        this.keeper = new Keeper(session, {
            reconnect: () => this.reconnect(),
            hurry: () => {
                this.hurried += 1;
            },
            timing: DEFAULT_TIMING,
        });
        this.keeper.start();
    }

    static async begun(): Promise<[Bench, MemoryWire]> {
        const [session, wire, agent] = await begun();
        return [new Bench(session, agent), wire];
    }

    private async reconnect(): Promise<void> {
        this.tries += 1;
        const error = this.errors.shift();
        if (error) throw error;
        const [wire, agent] = wireTo();
        this.agent = agent;
        await this.session.carry(wire);
    }

    answerPings(): void {
        const answer = this.agent.answer;
        this.agent.answer = (frame, send) => {
            answer(frame, send);
            if (frame.kind === "ping") send({ kind: "pong", timestamp: frame.timestamp });
        };
    }
}

beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "setTimeout", "clearTimeout"] });
    vi.spyOn(console, "info").mockImplementation(() => undefined);
});
afterEach(() => {
    vi.useRealTimers();
});

describe("a session that has lost its wire", () => {
    it("gets another one at once", async () => {
        const [bench, wire] = await Bench.begun();
        wire.close("gone");
        await turns();
        expect([bench.tries, bench.session.state.value]).toEqual([1, "open"]);
        bench.session.close();
        bench.keeper.stop();
    });

    it("is tried for again after a pause, at once when there is a reason to hurry", async () => {
        const [bench, wire] = await Bench.begun();
        bench.errors = [new AgentUnreachable(), new AgentUnreachable()];
        wire.close("gone");
        await turns();
        vi.advanceTimersByTime(2_900);
        await turns();
        expect(bench.tries).toBe(1);
        vi.advanceTimersByTime(100);
        await turns();
        expect(bench.tries).toBe(2);
        bench.keeper.hurry("online again");
        await turns();
        expect([bench.tries, bench.session.state.value]).toEqual([3, "open"]);
        bench.session.close();
        bench.keeper.stop();
    });

    it.each([new PeerNotTrusted("another key"), new Unauthorized("not yours")])(
        "ends at once where waiting cures nothing: %s",
        async (error) => {
            const [bench, wire] = await Bench.begun();
            bench.errors = [error];
            wire.close("gone");
            expect(await bench.session.closed).toBe(error.message);
            expect([bench.keeper.fatal, bench.tries]).toEqual([error, 1]);
        },
    );

    it("is let go when it ends", async () => {
        const [bench, wire] = await Bench.begun();
        bench.errors = Array.from({ length: 1000 }, () => new AgentUnreachable());
        wire.close("gone");
        for (let second = 0; second <= 300; second++) {
            await turns(3);
            vi.advanceTimersByTime(1_000);
        }
        expect(await bench.session.closed).toContain("no wire for 300 s");
        bench.keeper.stop();
        await turns();
        const { tries } = bench;
        vi.advanceTimersByTime(60_000);
        await turns();
        expect([bench.tries - tries, vi.getTimerCount()]).toEqual([0, 0]);
    });
});

describe("a session whose wire is doubtful", () => {
    it("keeps it when it answers", async () => {
        const [bench] = await Bench.begun();
        bench.answerPings();
        bench.keeper.hurry("visible again");
        bench.keeper.hurry("online again");
        await turns();
        vi.advanceTimersByTime(1_000);
        await turns();
        expect(bench.tries).toBe(0);
        const pings = bench.agent.seen.filter((frame) => frame.kind === "ping");
        expect(pings.length).toBeLessThanOrEqual(2); // one look at a time; the pulse may add one
        bench.session.close();
        bench.keeper.stop();
    });

    it("gets another beside it when it does not, and is never without one", async () => {
        const [bench, wire] = await Bench.begun();
        const states: string[] = [];
        bench.session.state.watch((state) => states.push(state));
        bench.keeper.hurry("awake again");
        vi.advanceTimersByTime(1_000);
        await turns();
        expect([bench.tries, states]).toEqual([1, []]);
        await expect(bench.session.stats()).resolves.toMatchObject({ wires: 2 });
        vi.advanceTimersByTime(2_000);
        expect(await wire.closed).toBe("the session goes on over another wire");
        bench.session.close();
        bench.keeper.stop();
    });

    it.each([
        ["what anybody may have said", new PeerNotTrusted("no", undefined, undefined, true), false],
        ["a lost permission", new Unauthorized("no longer yours"), false],
        ["a proof that failed here", new PeerNotTrusted("another key"), true],
    ])("%s ends it or not, if it works", async (_, error, ends) => {
        const warned = vi.spyOn(console, "warn").mockImplementation(() => undefined);
        const [bench] = await Bench.begun();
        bench.errors = [error];
        bench.keeper.hurry("awake again");
        vi.advanceTimersByTime(1_000);
        await turns();
        expect([bench.tries, bench.session.state.value]).toEqual([1, ends ? "closed" : "open"]);
        expect(bench.keeper.fatal).toBe(ends ? error : null);
        expect(warned).toHaveBeenCalledTimes(ends ? 0 : 1);
        warned.mockRestore();
        bench.session.close();
        bench.keeper.stop();
    });

    it("hurries what is under way", async () => {
        const [bench, wire] = await Bench.begun();
        let done: () => void = () => undefined;
        vi.spyOn(bench as unknown as { reconnect(): Promise<void> }, "reconnect").mockImplementation(
            () =>
                new Promise((resolve) => {
                    done = resolve;
                }),
        );
        wire.close("gone");
        await turns();
        bench.keeper.hurry("online again");
        expect(bench.hurried).toBe(1);
        bench.session.close();
        bench.keeper.stop();
        done();
    });
});
