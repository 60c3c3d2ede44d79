// How much bulk is under way: the vectors that pytest reads too.

import { describe, expect, it } from "vitest";
import { BulkTaken, BulkWindow } from "../../src/protocol/bulk_window.ts";
import { ProtocolError } from "../../src/protocol/errors.ts";
import { vectors } from "../vectors.ts";

type Step =
    | ["sent" | "taken", at: number, what: number, window: number, underWay: number, open: boolean]
    | ["take", at: number, size: number, count: number, tell: boolean];

const given = vectors<{ roads: { name: string; steps: Step[] }[]; refused: number[] }>("bulk_window");

describe("bulk window", () => {
    it.each(given.roads)("$name", ({ steps }) => {
        const [window, taken] = [new BulkWindow(0), new BulkTaken(0)];
        for (const step of steps) {
            const [kind, at, what] = step;
            if (kind === "take") {
                expect([taken.take(what, at), taken.count]).toEqual([step[4], step[3]]);
                continue;
            }
            window[kind](what, at);
            expect([kind, at, what, window.window, window.underWay, window.open]).toEqual(step);
        }
    });

    it.each(given.refused)("a count of %i that cannot be", (count) => {
        const window = new BulkWindow(0);
        window.sent(200, 0);
        window.taken(100, 1);
        expect(() => window.taken(count, 2)).toThrow(ProtocolError);
        expect([window.underWay, window.roundTrip]).toEqual([100, null]);
    });
});
