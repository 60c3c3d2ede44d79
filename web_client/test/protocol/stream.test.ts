import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { DoorstepError } from "../../src/protocol/errors.ts";
import type { Fin } from "../../src/protocol/frames.ts";
import { StreamMachine } from "../../src/protocol/stream.ts";
import { plain, vectors } from "../vectors.ts";
import { type Act, act, type Scenario } from "./stream_ends.ts";

interface Step extends Act {
    readonly frame?: unknown;
    readonly bytes?: string;
    readonly error?: string;
    readonly state: string;
    readonly credit: number;
}

const { scenarios } = vectors<{ scenarios: Scenario<Step>[] }>("stream");
const CODES: Readonly<Record<string, string>> = { protocol: "protocol", "stream-closed": "stream-closed" };

describe("stream", () => {
    it.each(scenarios.map((one) => [one.name, one] as const))("%s", (_, scenario) => {
        const machine = new StreamMachine(1, scenario);
        for (const [index, step] of scenario.steps.entries()) {
            const label = `step ${index}: ${step.do}`;
            let outcome: unknown;
            let error: DoorstepError | undefined;
            try {
                outcome = act(machine, step);
            } catch (thrown) {
                error = thrown as DoorstepError;
            }
            if (step.error === "remote") expect(error?.code, label).toBe(step.code);
            else expect(error?.code, label).toBe(step.error && (CODES[step.error] ?? step.error));
            if (step.bytes !== undefined) expect(plain(outcome), label).toBe(step.bytes);
            if (step.frame !== undefined) expect(plain(outcome), label).toEqual(step.frame);
            expect([machine.state, machine.credit], label).toEqual([step.state, step.credit]);
        }
    });

    it("brings every byte once and in order, whatever is repeated and however it is read", () => {
        const chunks = fc.array(fc.uint8Array({ minLength: 1, maxLength: 20 }), { maxLength: 30 });
        fc.assert(
            fc.property(chunks, fc.integer({ min: 1, max: 64 }), fc.nat(3), (parts, window, repeats) => {
                const from = new StreamMachine(1, { opener: false, window: 1, peerWindow: window });
                const to = new StreamMachine(1, { opener: true, window });
                to.receiveAccept(from.accept({}));
                const wanted = parts.flatMap((part) => [...part]);
                const got: number[] = [];
                for (let at = 0; at < wanted.length; ) {
                    const frame = from.send(Uint8Array.from(wanted.slice(at, at + from.credit)));
                    at += frame.payload.length;
                    for (let again = 0; again <= repeats; again++) got.push(...to.receiveData(frame));
                    const unread = to.received - to.consumed;
                    expect(unread).toBeLessThanOrEqual(window);
                    const update = to.consume(unread);
                    if (update) from.receiveWindow(update);
                }
                to.receiveFin(from.finish({}) as Fin);
                expect(got).toEqual(wanted);
                expect(to.whole).toBe(true);
            }),
        );
    });
});
