// A session over more than one wire: who goes over when, what ends it, and what the page is told meanwhile.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DeadlineExceeded, RemoteError, SessionClosed, WireClosed } from "../../src/protocol/errors.ts";
import type { Frame } from "../../src/protocol/frames.ts";
import { ScriptedAgent, wirePair } from "./memory_wire.ts";
import { begun, TOKEN, turns, wireTo } from "./resuming.ts";

const kinds = (agent: ScriptedAgent): string[] => agent.seen.map((frame) => frame.kind);

beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "setTimeout", "clearTimeout"] });
});
afterEach(() => {
    vi.useRealTimers();
});

describe("a session without a wire", () => {
    it("is away after 3 s of silence, goes on over the next wire, and says so", async () => {
        const [session, wire] = await begun();
        const states: string[] = [];
        session.state.watch((state) => states.push(state));
        expect([session.resumable, session.stalled.value]).toEqual([true, false]);
        vi.advanceTimersByTime(2_750);
        expect(session.state.value).toBe("open");
        vi.advanceTimersByTime(250);
        expect([session.state.value, session.stalled.value]).toEqual(["away", true]);
        expect(await wire.closed).toBe("the wire is lost: nothing came for 3 s");
        const [next, agent] = wireTo();
        await session.carry(next);
        expect([session.state.value, session.stalled.value]).toEqual(["open", false]);
        expect(states).toEqual(["away", "open"]);
        expect(agent.seen[0]).toMatchObject({ kind: "hello", resume: { token: TOKEN, streams: {} } });
        await expect(session.stats()).resolves.toMatchObject({ wires: 2, resumable: true });
        session.close();
    });

    it("ends with a reason after 300 s", async () => {
        const [session, wire] = await begun();
        wire.close("gone");
        await turns();
        vi.advanceTimersByTime(299_000);
        expect(session.state.value).toBe("away");
        const call = session.call("a.b", {}, 1000);
        vi.advanceTimersByTime(1_000);
        expect(await session.closed).toBe("no wire for 300 s, since the wire is gone: gone");
        expect(session.ending).toBe("kept");
        await expect(call).rejects.toBeInstanceOf(SessionClosed);
        await expect(session.carry(wireTo()[0])).rejects.toBeInstanceOf(SessionClosed);
    });

    it("a call waits for the next wire; one that was sent is repeated there, under its number", async () => {
        const [session, wire, first] = await begun();
        const early = session.call("a.early", {});
        await turns();
        wire.close("gone");
        const late = session.call("a.late", {});
        await turns();
        const [next, second] = wireTo();
        const welcome = second.answer;
        second.answer = (frame, send) => {
            welcome(frame, send);
            if (frame.kind === "call")
                send({ kind: "reply", requestId: frame.requestId, payload: frame.payload });
        };
        await session.carry(next);
        await Promise.all([early, late]);
        const calls = (agent: ScriptedAgent) =>
            agent.seen.flatMap((frame) => (frame.kind === "call" ? [frame.routeKey + frame.requestId] : []));
        expect(calls(first)).toEqual(["a.earlyc1"]);
        expect(calls(second).sort()).toEqual(["a.earlyc1", "a.latec2"]);
        session.close();
    });

    it("ends when the agent does not know it any more", async () => {
        const [session, wire] = await begun();
        wire.close();
        await turns();
        await expect(session.carry(wireTo(null)[0])).rejects.toBeInstanceOf(SessionClosed);
        expect(await session.closed).toBe("the agent does not know this session any more");
        expect(session.ending).toBe("peer");
    });
});

describe("a session with a wire", () => {
    it("goes over to another: SWITCH is the last on the one, a PING the first on the other", async () => {
        const [session, left, first] = await begun();
        const [next, second] = wireTo();
        await session.carry(next);
        await turns();
        expect(kinds(first)).toEqual(["hello", "switch"]);
        expect(kinds(second)).toEqual(["hello", "ping"]);
        first.send({ kind: "ping", timestamp: 1 }); // on its way before the agent's own SWITCH
        first.send({ kind: "switch" });
        await turns();
        expect(kinds(second)).toEqual(["hello", "ping", "pong"]);
        expect(await left.closed).toBe("the session goes on over another wire");
        session.close();
    });

    it("does not wait for ever for the other's SWITCH", async () => {
        const [session, left] = await begun();
        await session.carry(wireTo()[0]);
        vi.advanceTimersByTime(2_000);
        expect(await left.closed).toBe("the session goes on over another wire");
        session.close();
    });

    it.each([
        ["of another session", { token: "another", streams: {} }],
        ["that knows nothing", null],
    ])("keeps it when the new one is welcomed by one %s", async (_, resume) => {
        const [session] = await begun();
        await expect(session.carry(wireTo(resume)[0])).rejects.toBeInstanceOf(WireClosed);
        expect(session.state.value).toBe("open");
        session.close();
    });

    it("keeps it when nobody greets on the new one", async () => {
        const [session, , agent] = await begun();
        const [left, right] = wirePair();
        new ScriptedAgent(right, false);
        const carried = expect(session.carry(left)).rejects.toBeInstanceOf(DeadlineExceeded);
        for (let second = 0; second < 15; second++) {
            vi.advanceTimersByTime(1_000);
            agent.send({ kind: "ping", timestamp: 1 });
            await turns();
        }
        await carried;
        expect(session.state.value).toBe("open");
        session.close();
    });

    it("is told when the peer has left for a wire that is gone", async () => {
        const [session, , agent] = await begun();
        agent.send({ kind: "switch" });
        await turns();
        expect(session.state.value).toBe("away");
        session.close();
    });

    it("tells the agent that it ends, and lets it close the wire", async () => {
        const [session, wire, agent] = await begun();
        session.close("the page was closed");
        await turns();
        expect(agent.seen.at(-1)).toEqual({
            kind: "reset",
            streamId: 0,
            code: "closed",
            message: "the page was closed",
        });
        let closed = false;
        void wire.closed.then(() => {
            closed = true;
        });
        await turns();
        expect(closed).toBe(false);
        vi.advanceTimersByTime(500);
        expect(await wire.closed).toBe("the page was closed");
    });

    it("ends when the agent says so", async () => {
        const [session, , agent] = await begun();
        agent.send({ kind: "reset", streamId: 0, code: "closed", message: "the agent stops" });
        expect(await session.closed).toBe("closed by the peer: the agent stops");
        expect(session.ending).toBe("peer");
    });

    it("refuses what the agent opens, as often as it is opened, and lets it forget", async () => {
        const [session, , agent] = await begun();
        const open: Frame = {
            kind: "open",
            streamId: 2,
            service: "a",
            method: "b",
            params: {},
            lane: "terminal-io",
            window: 1,
        };
        agent.send(open, "terminal-io");
        agent.send(open, "terminal-io");
        agent.send({ kind: "reset", streamId: 2, code: "cancelled", message: "" }, "terminal-io");
        await turns();
        expect(agent.seen.slice(1)).toMatchObject([
            { kind: "reset", streamId: 2, code: "unknown-route" },
            { kind: "reset", streamId: 2, code: "unknown-route" },
            { kind: "window", streamId: 2, received: Number.MAX_SAFE_INTEGER },
        ]);
        session.close();
    });
});

describe("a probe", () => {
    it("knows a wire that answers from one that does not, and what is old from what is new", async () => {
        const [session, , agent] = await begun();
        const answer = agent.answer;
        agent.answer = (frame, send) => {
            answer(frame, send);
            if (frame.kind === "ping") send({ kind: "pong", timestamp: frame.timestamp });
        };
        await expect(session.probe()).resolves.toBe(true);
        agent.answer = (frame, send) => {
            if (frame.kind === "ping") send({ kind: "pong", timestamp: 1 }); // of an older PING
        };
        const silent = session.probe();
        await turns();
        vi.advanceTimersByTime(1_000);
        await expect(silent).resolves.toBe(false);
        expect(session.state.value).toBe("open");
        const interrupted = session.probe();
        session.close();
        await expect(interrupted).resolves.toBe(false);
        await expect(session.probe()).resolves.toBe(false);
    });
});

describe("what the peer may not do", () => {
    it("say that it has what was never sent", async () => {
        const [session, , agent] = await begun();
        const accepted = session.open("a", "b", {}, "terminal-io");
        agent.send({ kind: "accept", streamId: 1, result: {}, window: 10 }, "terminal-io");
        await accepted;
        const carried = session.carry(wireTo({ token: TOKEN, streams: { 1: 5 } })[0]);
        await carried.catch(() => undefined);
        expect(await session.closed).toContain("WINDOW for bytes that were not sent");
        expect(session.ending).toBe("broken");
    });

    it("speak on another lane than the stream's", async () => {
        const [session, , agent] = await begun();
        const accepted = session.open("a", "b", {}, "terminal-io");
        accepted.catch(() => undefined);
        agent.send({ kind: "accept", streamId: 1, result: {}, window: 10 }, "file-transfer");
        expect(await session.closed).toContain("belongs to lane terminal-io");
        await expect(accepted).rejects.toBeInstanceOf(SessionClosed);
    });
});

it("too many streams are refused, not queued", async () => {
    const [session] = await begun();
    const opening = Array.from({ length: 256 }, () => session.open("a", "b", {}, "terminal-io"));
    for (const one of opening) one.catch(() => undefined);
    await expect(session.open("a", "b", {}, "terminal-io")).rejects.toBeInstanceOf(RemoteError);
    session.close();
});
