// resume.json: one end of a stream that outlives its wires; greetings that resume a session.

import { describe, expect, it } from "vitest";
import { type DoorstepError, ProtocolError } from "../../src/protocol/errors.ts";
import { decode, encode, type Frame } from "../../src/protocol/frames.ts";
import { StreamMachine } from "../../src/protocol/stream.ts";
import { fromHex, plain, toHex, vectors, withBytes } from "../vectors.ts";
import { type Act, act, type Scenario } from "./stream_ends.ts";

interface Step extends Act {
    readonly then: Readonly<Record<string, unknown>>;
}
interface Vectors {
    readonly streams: Scenario<Step>[];
    readonly greetings: { name: string; frame: Frame & { payload?: unknown }; hex: string }[];
    readonly refused: { name: string; hex: string }[];
}

const all = vectors<Vectors>("resume");
const OUTCOME = "frame bytes error code state credit position acked behind settled".split(" ");

function begun(scenario: Scenario<Step>): StreamMachine {
    const machine = new StreamMachine(1, { ...scenario, replay: true });
    const { window } = scenario;
    if (scenario.opener)
        machine.first = {
            kind: "open",
            streamId: 1,
            service: "a",
            method: "b",
            params: {},
            lane: "terminal-io",
            window,
        };
    return machine;
}

/** Take a step; say what came of it, and what holds then. */
function after(machine: StreamMachine, step: Step): Record<string, unknown> {
    const found: Record<string, unknown> = {};
    try {
        const outcome = act(machine, step);
        if (outcome instanceof Uint8Array) found.bytes = toHex(outcome);
        else if (step.do !== "receive" && step.do !== "resume") found.frame = plain(outcome);
    } catch (error) {
        const { code, name } = error as DoorstepError;
        found.error = name === "RemoteError" ? "remote" : code;
        if (name === "RemoteError") found.code = code;
    }
    const { state, credit, position, acked, behind, settled } = machine;
    return { ...found, state, credit, position, acked, behind, settled };
}

describe("resume", () => {
    it.each(all.streams.map((one) => [one.name, one] as const))("%s", (_, scenario) => {
        const machine = begun(scenario);
        for (const [index, step] of scenario.steps.entries()) {
            const wanted = Object.fromEntries(
                Object.entries(step.then).filter(([name]) => OUTCOME.includes(name)),
            );
            expect(after(machine, step), `step ${index}: ${step.do}`).toEqual(wanted);
        }
    });

    it.each(all.greetings.map((one) => [one.name, one] as const))("both ways: %s", (_, { frame, hex }) => {
        expect(plain(decode(fromHex(hex)))).toEqual(frame);
        expect(toHex(encode(withBytes(frame)))).toBe(hex);
    });

    it.each(all.refused.map((one) => [one.name, one] as const))("refused: %s", (_, { hex }) => {
        expect(() => decode(fromHex(hex))).toThrow(ProtocolError);
    });
});
