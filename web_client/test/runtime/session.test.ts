import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DeadlineExceeded, RemoteError, SessionClosed } from "../../src/protocol/errors.ts";
import type { Frame } from "../../src/protocol/frames.ts";
import { DATA_CHUNK, TERMINAL_WINDOW } from "../../src/protocol/limits.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { Session } from "../../src/runtime/session.ts";
import { ScriptedAgent, wirePair } from "./memory_wire.ts";

const utf8 = new TextEncoder();

async function connected(): Promise<[Session, ScriptedAgent]> {
    const [left, right] = wirePair();
    const agent = new ScriptedAgent(right);
    const session = new Session("session-1", DEFAULT_TIMING);
    await session.start(left);
    return [session, agent];
}

const turns = async (count = 20): Promise<void> => {
    for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
};

describe("session", () => {
    it("greets and knows its peer", async () => {
        const [session, agent] = await connected();
        expect(session.peer).toMatchObject({ name: "atelier" });
        expect(agent.seen[0]).toMatchObject({
            kind: "hello",
            version: 1,
            sessionId: "session-1",
            role: "client",
        });
        session.close();
        expect(await session.closed).toBe("closed");
    });

    it("gives up on an agent that does not greet", async () => {
        const [left, right] = wirePair();
        new ScriptedAgent(right, false);
        const session = new Session("session-1", { ...DEFAULT_TIMING, ice: 0.02 });
        await expect(session.start(left)).rejects.toBeInstanceOf(DeadlineExceeded);
        expect(await left.closed).toContain("greeting");
    });

    it("refuses another version", async () => {
        const [left, right] = wirePair();
        const agent = new ScriptedAgent(right, false);
        agent.answer = (_frame, send) =>
            send({
                kind: "welcome",
                version: 2,
                sessionId: "s",
                role: "agent",
                features: [],
                maxFrame: 1024,
                agent: {},
            });
        await expect(new Session("session-1", DEFAULT_TIMING).start(left)).rejects.toThrow("version 2");
    });

    it("calls: result, error, time limit, end", async () => {
        const [session, agent] = await connected();
        agent.answer = (frame, send) => {
            if (frame.kind !== "call") return;
            const { requestId, routeKey } = frame;
            if (routeKey === "a.echo") send({ kind: "reply", requestId, payload: frame.payload });
            if (routeKey === "a.fail")
                send({
                    kind: "reply",
                    requestId,
                    error: { code: "not-found", message: "no" },
                    payload: utf8.encode("{}"),
                });
        };
        await expect(session.call("a.echo", { x: [1] })).resolves.toEqual({ x: [1] });
        await expect(session.call("a.fail", {})).rejects.toMatchObject({ code: "not-found" });
        await expect(session.call("a.never", {}, 0.02)).rejects.toBeInstanceOf(DeadlineExceeded);
        const last = session.call("a.never", {});
        session.close("done");
        await expect(last).rejects.toBeInstanceOf(SessionClosed);
        await expect(session.call("a.echo", {})).rejects.toBeInstanceOf(SessionClosed);
    });

    it("a stream: bytes both ways, both ends, the trailer", async () => {
        const [session, agent] = await connected();
        agent.answer = (frame, send) => {
            if (frame.kind === "open") {
                send(
                    { kind: "accept", streamId: frame.streamId, result: { pid: 7 }, window: 100_000 },
                    frame.lane,
                );
                send(
                    { kind: "data", streamId: frame.streamId, offset: 0, payload: utf8.encode("hi") },
                    frame.lane,
                );
            }
            if (frame.kind === "fin")
                send(
                    { kind: "fin", streamId: frame.streamId, length: 2, trailer: { exitCode: 0 } },
                    "terminal-io",
                );
        };
        const stream = await session.open("terminal", "open", { cols: 80 }, "terminal-io");
        expect(stream.result).toEqual({ pid: 7 });
        expect(new TextDecoder().decode((await stream.read()) ?? undefined)).toBe("hi");
        await stream.write(new Uint8Array(DATA_CHUNK + 1));
        await stream.finish();
        expect(await stream.read()).toBeNull();
        expect(stream.trailer).toEqual({ exitCode: 0 });
        await turns();
        const sizes = agent.seen.flatMap((frame) => (frame.kind === "data" ? [frame.payload.length] : []));
        expect(sizes).toEqual([DATA_CHUNK, 1]);
    });

    it("a writer waits for the peer's window, and goes on", async () => {
        const [session, agent] = await connected();
        agent.answer = (frame, send) => {
            if (frame.kind === "open")
                send({ kind: "accept", streamId: 1, result: {}, window: 10 }, "terminal-io");
        };
        const stream = await session.open("terminal", "open", {}, "terminal-io");
        let done = false;
        const write = stream.write(new Uint8Array(25)).then(() => {
            done = true;
        });
        await turns();
        expect(done).toBe(false);
        agent.send({ kind: "window", streamId: 1, received: 10, limit: 25 });
        await write;
        await turns();
        const sent = agent.seen.flatMap((frame) =>
            frame.kind === "data" ? [[frame.offset, frame.payload.length]] : [],
        );
        expect(sent).toEqual([
            [0, 10],
            [10, 15],
        ]);
    });

    it("gives room when the reader has taken half the window, not when bytes come", async () => {
        const [session, agent] = await connected();
        agent.answer = (frame, send) => {
            if (frame.kind === "open")
                send({ kind: "accept", streamId: 1, result: {}, window: 10 }, "terminal-io");
        };
        const stream = await session.open("terminal", "open", {}, "terminal-io");
        const part = TERMINAL_WINDOW / 16;
        for (let offset = 0; offset < TERMINAL_WINDOW; offset += part)
            agent.send({ kind: "data", streamId: 1, offset, payload: new Uint8Array(part) }, "terminal-io");
        await turns();
        const windows = (): Frame[] => agent.seen.filter((frame) => frame.kind === "window");
        for (let read = 1; read < 8; read++) await stream.read();
        await turns();
        expect(windows()).toEqual([]);
        await stream.read();
        await turns();
        expect(windows()).toEqual([
            { kind: "window", streamId: 1, received: TERMINAL_WINDOW, limit: TERMINAL_WINDOW * 1.5 },
        ]);
    });

    it("a refused stream and a lost session reach whoever waits", async () => {
        const [session, agent] = await connected();
        agent.answer = (frame, send) => {
            if (frame.kind !== "open") return;
            if (frame.method === "no")
                send({ kind: "reset", streamId: frame.streamId, code: "busy", message: "later" }, frame.lane);
            else send({ kind: "accept", streamId: frame.streamId, result: {}, window: 0 }, frame.lane);
        };
        await expect(session.open("a", "no", {}, "control")).rejects.toBeInstanceOf(RemoteError);
        const stream = await session.open("a", "yes", {}, "control");
        const read = stream.read();
        const write = stream.write(new Uint8Array(1));
        session.close("gone");
        await expect(read).rejects.toBeInstanceOf(SessionClosed);
        await expect(write).rejects.toBeInstanceOf(SessionClosed);
    });

    it("a frame that breaks the protocol ends the session with the reason", async () => {
        const [session, agent] = await connected();
        agent.send({ kind: "data", streamId: 9, offset: 0, payload: new Uint8Array(1) }, "terminal-io");
        expect(await session.closed).toContain("stream 9 was never opened");
    });

    it("late frames of a stream that is over change nothing", async () => {
        const [session, agent] = await connected();
        agent.answer = (frame, send) => {
            if (frame.kind === "open")
                send({ kind: "accept", streamId: 1, result: {}, window: 9 }, "terminal-io");
        };
        const stream = await session.open("a", "b", {}, "terminal-io");
        stream.reset("cancelled", "");
        agent.send({ kind: "data", streamId: 1, offset: 0, payload: new Uint8Array(1) }, "terminal-io");
        await turns();
        await expect(session.stats()).resolves.toMatchObject({ kind: "memory" });
        session.close();
    });
});

describe("silence", () => {
    beforeEach(() => {
        vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "setTimeout", "clearTimeout"] });
    });
    afterEach(() => {
        vi.useRealTimers();
    });

    it("pings when idle, says stalled after 3 s, a session that cannot resume ends after 15 s", async () => {
        const [session, agent] = await connected();
        vi.advanceTimersByTime(1000);
        await turns();
        expect(agent.seen.at(-1)?.kind).toBe("ping");
        vi.advanceTimersByTime(2000);
        expect(session.stalled.value).toBe(false);
        vi.advanceTimersByTime(250);
        expect(session.stalled.value).toBe(true);
        agent.send({ kind: "ping", timestamp: 5 });
        await turns();
        expect(session.stalled.value).toBe(false);
        expect(agent.seen.at(-1)).toEqual({ kind: "pong", timestamp: 5 });
        vi.advanceTimersByTime(15_000);
        expect([session.stalled.value, session.state.value]).toEqual([true, "open"]);
        vi.advanceTimersByTime(250);
        expect(await session.closed).toBe("the wire is lost: nothing came for 15 s");
    });
});
