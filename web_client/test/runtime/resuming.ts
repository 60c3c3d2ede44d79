// Tests: sessions that can resume, with a scripted agent at the other end of each wire.

import type { Welcome } from "../../src/protocol/frames.ts";
import { DEFAULT_TIMING, type Timing } from "../../src/protocol/timing.ts";
import { Session } from "../../src/runtime/session.ts";
import { type MemoryWire, ScriptedAgent, wirePair } from "./memory_wire.ts";

export const TOKEN = "k".repeat(43);

export const turns = async (count = 20): Promise<void> => {
    for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
};

/** An agent that greets as told. */
export function agentAt(
    wire: MemoryWire,
    resume: Welcome["resume"] | null = { token: TOKEN, streams: {} },
): ScriptedAgent {
    const agent = new ScriptedAgent(wire, false);
    agent.answer = (frame, send) => {
        if (frame.kind !== "hello") return;
        const { version, sessionId, maxFrame } = frame;
        const about = {
            version,
            sessionId,
            role: "agent",
            features: ["resume"],
            maxFrame,
            agent: {},
        } as const;
        send({ kind: "welcome", ...about, ...(resume ? { resume } : {}) });
    };
    return agent;
}

/** A wire with such an agent at its other end. */
export function wireTo(resume?: Welcome["resume"] | null): [MemoryWire, ScriptedAgent] {
    const [left, right] = wirePair();
    return [left, agentAt(right, resume)];
}

export async function begun(timing: Timing = DEFAULT_TIMING): Promise<[Session, MemoryWire, ScriptedAgent]> {
    const [wire, agent] = wireTo();
    const session = new Session("session-1", timing);
    await session.start(wire);
    return [session, wire, agent];
}
