import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Attempt, type AttemptEvent, type AttemptState, TRANSITIONS } from "../../src/protocol/attempt.ts";
import { MalformedMessage, NotAllowed } from "../../src/protocol/errors.ts";
import { dump, parse } from "../../src/protocol/signaling.ts";
import { plain, vectors } from "../vectors.ts";

interface Step {
    readonly now: number;
    readonly event?: AttemptEvent;
    readonly receive?: [string, unknown];
    readonly timer?: true;
    readonly notAllowed?: true;
    /** The same input so many times. */
    readonly times?: number;
    readonly state: AttemptState;
    readonly deadline: number | null;
    readonly effects: unknown[];
    readonly outcome?: Record<string, unknown>;
}
interface Scenario {
    readonly name: string;
    readonly machine: { agentId: string; sessionId: string | null } & Record<string, unknown>;
    readonly steps: Step[];
}

const { attempt: scenarios } = vectors<{ attempt: Scenario[] }>("attempt");

function put(machine: Attempt, step: Step): void {
    if (step.timer) machine.handleTimer(step.now);
    else if (step.event) machine.handle(step.event, step.now);
    else if (step.receive) {
        try {
            machine.handle(parse(...step.receive), step.now);
        } catch (error) {
            if (!(error instanceof MalformedMessage)) throw error;
        }
    }
}

/** A candidate or message inside an effect as the vectors write it. */
function written(effect: Record<string, unknown>): unknown {
    if (!effect.message) return plain(effect);
    const [event, payload] = dump(effect.message as Parameters<typeof dump>[0]);
    return plain({ ...effect, message: { event, ...payload } });
}

describe("attempt", () => {
    it.each(scenarios.map((one) => [one.name, one] as const))("%s", (_, scenario) => {
        const { agentId, sessionId, ...options } = scenario.machine;
        const machine = new Attempt(agentId, sessionId, options);
        for (const [index, step] of scenario.steps.entries()) {
            const label = `step ${index} at ${step.now} s`;
            if (step.notAllowed) expect(() => put(machine, step), label).toThrow(NotAllowed);
            else for (let again = 0; again < (step.times ?? 1); again++) put(machine, step);
            expect(machine.effects().map(written), label).toEqual(step.effects);
            expect([machine.state, machine.deadline()], label).toEqual([step.state, step.deadline]);
            const { outcome } = machine;
            const { retryable, pause } = outcome ?? {};
            const told = plain({ ...outcome?.error, retryable, pause });
            const wanted = step.outcome && {
                ...step.outcome,
                retryAfter: step.outcome.retryAfter ?? undefined,
            };
            if (wanted) expect(told, label).toMatchObject(plain(wanted) as object);
            else expect(outcome, label).toBeNull();
        }
    });

    it("keeps to its table, and to 1 + 3 attempts in 30 s, whatever happens", () => {
        const types = ["agents-joined", "signaling-joined", "request-sent", "offer-sent", "wire-up"] as const;
        const inputs = fc.array(
            fc.record({ after: fc.double({ min: 0, max: 12, noNaN: true }), pick: fc.nat(99) }),
            { maxLength: 60 },
        );
        fc.assert(
            fc.property(inputs, (steps) => {
                const machine = new Attempt("00000000-0000-4000-8000-000000000001", "session-1");
                let now = 0;
                let shown: AttemptState = "idle";
                machine.handle({ type: "connect" }, now);
                for (const { after, pick } of steps) {
                    now += after;
                    try {
                        const type = types[pick % 8];
                        if (type) machine.handle({ type, serial: machine.serial }, now);
                        else if (pick % 8 === 5) machine.handleTimer(now);
                        else if (machine.state === "failed") machine.handle({ type: "pause" }, now);
                        else if (machine.state === "retrying") machine.handle({ type: "retry" }, now);
                    } catch (error) {
                        expect(error).toBeInstanceOf(NotAllowed);
                    }
                    for (const effect of machine.effects()) {
                        if (effect.type !== "report") continue;
                        expect(Object.values(TRANSITIONS[shown])).toContain(effect.state);
                        shown = effect.state;
                    }
                    expect(machine.attempt).toBeLessThanOrEqual(4);
                    expect(machine.deadline() ?? 0).toBeLessThanOrEqual(30);
                }
            }),
        );
    });
});
