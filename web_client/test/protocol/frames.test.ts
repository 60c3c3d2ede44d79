import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ProtocolError } from "../../src/protocol/errors.ts";
import { decode, encode, type Frame } from "../../src/protocol/frames.ts";
import { fromHex, plain, toHex, vectors, withBytes } from "../vectors.ts";

interface Good {
    readonly name: string;
    readonly frame: Frame & { payload?: unknown };
    readonly hex: string;
}
interface Bad {
    readonly name: string;
    readonly hex: string;
    readonly error: string;
    readonly position: number;
}
interface Vectors {
    readonly valid: Good[];
    readonly lenient: Good[];
    readonly skipped: { name: string; hex: string }[];
    readonly invalid: Bad[];
}

const all = vectors<Vectors>("frames");

describe("frames", () => {
    it.each(all.valid.map((one) => [one.name, one] as const))("both ways: %s", (_, { frame, hex }) => {
        expect(plain(decode(fromHex(hex)))).toEqual(frame);
        expect(toHex(encode(withBytes(frame)))).toBe(hex);
    });

    it.each(all.lenient.map((one) => [one.name, one] as const))("accepted: %s", (_, { frame, hex }) => {
        expect(plain(decode(fromHex(hex)))).toEqual(frame);
    });

    it.each(all.skipped.map((one) => [one.name, one] as const))("skipped: %s", (_, { hex }) => {
        expect(decode(fromHex(hex))).toBeNull();
    });

    it.each(all.invalid.map((one) => [one.name, one] as const))(
        "refused: %s",
        (_, { hex, error, position }) => {
            const refusal = thrownBy(() => decode(fromHex(hex)));
            expect(refusal).toBeInstanceOf(ProtocolError);
            expect((refusal as ProtocolError).message.startsWith(error)).toBe(true);
            expect((refusal as ProtocolError).position).toBe(position);
        },
    );

    it("returns what was put in", () => {
        const number = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
        const payload = fc.uint8Array({ maxLength: 300 });
        const frames = fc.oneof(
            fc.record({ kind: fc.constant("data" as const), streamId: number, offset: number, payload }),
            fc.record({
                kind: fc.constant("window" as const),
                streamId: number,
                received: number,
                limit: number,
            }),
            fc.record({
                kind: fc.constant("datagram" as const),
                streamId: number,
                sequence: number,
                payload,
            }),
            fc.record({ kind: fc.constant("ping" as const), timestamp: number }),
            fc.record({
                kind: fc.constant("reset" as const),
                streamId: number,
                code: fc.string({ minLength: 1, maxLength: 64, unit: "grapheme-ascii" }),
                message: fc.string({ maxLength: 200, unit: "binary" }),
            }),
        );
        fc.assert(
            fc.property(frames, (frame) => {
                expect(decode(encode(frame))).toEqual(frame);
            }),
        );
    });

    it("never fails on bytes from anywhere but with a ProtocolError", () => {
        fc.assert(
            fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
                const error = thrownBy(() => decode(bytes));
                expect(error === undefined || error instanceof ProtocolError).toBe(true);
            }),
            { numRuns: 2000 },
        );
    });
});

function thrownBy(work: () => unknown): unknown {
    try {
        work();
        return undefined;
    } catch (error) {
        return error;
    }
}
