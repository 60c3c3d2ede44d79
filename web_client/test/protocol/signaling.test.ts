import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MalformedMessage } from "../../src/protocol/errors.ts";
import { dump, iceUfrags, parse } from "../../src/protocol/signaling.ts";
import { vectors } from "../vectors.ts";

interface Case {
    readonly name: string;
    readonly event: string;
    readonly payload: unknown;
    readonly dumpedEvent?: string;
    readonly dumped?: unknown;
    readonly field?: string;
}

const all = vectors<{
    accepted: Case[];
    refused: Case[];
    ufrags: { name: string; sdp: string; ufrags: string[] }[];
}>("signaling");

/** `{"$repeat": [what, n]}` is the text or list n times over. */
function grown(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(grown);
    if (typeof value !== "object" || value === null) return value;
    if ("$repeat" in value) {
        const [what, times] = value.$repeat as [string | unknown[], number];
        return typeof what === "string" ? what.repeat(times) : Array(times).fill(what.map(grown)).flat();
    }
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, grown(one)]));
}

describe("signaling", () => {
    it.each(all.accepted.map((one) => [one.name, one] as const))("accepted: %s", (_, one) => {
        const payload = grown(one.payload);
        const message = parse(one.event, payload);
        expect(dump(message)).toEqual([one.dumpedEvent ?? one.event, grown(one.dumped) ?? payload]);
    });

    it.each(all.refused.map((one) => [one.name, one] as const))("refused: %s", (_, one) => {
        try {
            parse(one.event, grown(one.payload));
        } catch (error) {
            expect(error).toBeInstanceOf(MalformedMessage);
            expect((error as MalformedMessage).field).toBe(one.field);
            return;
        }
        expect.fail("it was accepted");
    });

    it.each(all.ufrags.map((one) => [one.name, one] as const))("ufrags: %s", (_, { sdp, ufrags }) => {
        expect(iceUfrags(sdp)).toEqual(ufrags);
    });

    it("never fails on anything but with a MalformedMessage", () => {
        const events = fc.constantFrom(
            "offer",
            "answer",
            "candidate",
            "connection-ready",
            "connection-refused",
        );
        fc.assert(
            fc.property(events, fc.jsonValue(), (event, payload) => {
                try {
                    parse(event, payload);
                } catch (error) {
                    expect(error).toBeInstanceOf(MalformedMessage);
                }
            }),
        );
    });
});
