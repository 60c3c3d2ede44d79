// Two ends of one stream over a row of wires, each cut at any frame or left while it still delivers; as
// tests/protocol/test_stream_resume.py has it. On a wire the frames of the stream's lane arrive in order, WINDOW frames
// in their own order beside them. An end that is forgotten (null) answers as a session does.

import fc from "fast-check";
import { expect, it } from "vitest";
import type { StreamFrame } from "../../src/protocol/frames.ts";
import { ENDED, StreamMachine } from "../../src/protocol/stream.ts";
import { take } from "./stream_ends.ts";

type Side = 0 | 1;
type Pair<T> = [T, T];

const WINDOWS: Pair<number> = [7, 12];
const BOTH: readonly Side[] = [0, 1];
const other = (side: Side): Side => (side === 0 ? 1 : 0);

class Wire {
    readonly lanes: Pair<StreamFrame[]> = [[], []];
    readonly control: Pair<StreamFrame[]> = [[], []];
    dead = false;
    /** What end 0 was told about its direction, what end 1 was. */
    readonly positions: Pair<number | null>;

    constructor(positions: Pair<number | null>) {
        this.positions = positions;
    }

    cut(): void {
        this.dead = true;
        for (const queue of [...this.lanes, ...this.control]) queue.length = 0;
    }
}

class TwoEnds {
    readonly ends: Pair<StreamMachine | null>;
    private opened = false;
    private readonly wires = [new Wire([null, null])];
    /** The wire each end sends on; -1 none. */
    private readonly carrying: Pair<number> = [0, 0];
    private readonly wrote: Pair<number[]> = [[], []];
    private readonly read: Pair<number[]> = [[], []];
    private readonly finished: Pair<boolean> = [false, false];
    readonly whole: Pair<boolean> = [false, false];
    wasReset = false;

    constructor() {
        const opener = new StreamMachine(1, { opener: true, window: WINDOWS[0], replay: true });
        opener.first = {
            kind: "open",
            streamId: 1,
            service: "a",
            method: "b",
            params: {},
            lane: "terminal-io",
            window: WINDOWS[0],
        };
        this.ends = [opener, null];
        this.post(0, opener.first);
    }

    accept(): void {
        const end = this.ends[1];
        if (end?.state === "opening") this.post(1, end.accept({}));
    }

    send(side: Side, size: number): void {
        const end = this.ends[side];
        if (!end?.credit || this.carrying[side] < 0) return;
        this.catchUp(side, 4);
        const wrote = this.wrote[side];
        const count = Math.min(size, end.credit);
        const payload = Uint8Array.from({ length: count }, (_, index) => (wrote.length + index) % 251);
        wrote.push(...payload);
        this.post(side, end.send(payload));
    }

    finish(side: Side): void {
        const end = this.ends[side];
        if (!end?.sending) return;
        this.finished[side] = true;
        this.post(side, end.finish({ length: end.sent }));
    }

    reset(side: Side): void {
        const end = this.ends[side];
        if (!end || end.ended) return;
        this.wasReset = true;
        this.post(side, end.reset("cancelled", ""));
        this.forget(side);
    }

    consume(side: Side, count: number): void {
        const end = this.ends[side];
        if (end) this.post(side, end.consume(Math.min(count, end.received - end.consumed)));
    }

    // --- the weather ---

    catchUp(side: Side, most: number): void {
        const end = this.ends[side];
        while (end?.behind && this.carrying[side] >= 0) this.post(side, end.pull(most));
    }

    cut(back: number): void {
        const number = Math.max(this.wires.length - 1 - back, 0);
        this.wires[number]?.cut();
        for (const side of BOTH) if (this.carrying[side] === number) this.carrying[side] = -1;
    }

    /** A new wire: both say their position now; each goes over to it when it likes. */
    greet(): void {
        if (this.wires.filter((wire) => !wire.dead).length >= 3) return;
        const said = this.ends.map((end) => end?.position ?? null);
        this.wires.push(new Wire([said[1] ?? null, said[0] ?? null]));
    }

    goOver(side: Side, back: number): void {
        const number = Math.max(this.wires.length - 1 - back, 0);
        const wire = this.wires[number];
        if (number <= this.carrying[side] || !wire || wire.dead) return;
        this.carrying[side] = number;
        const end = this.ends[side];
        if (!end) return;
        end.resume(wire.positions[side]);
        const begun = end.state !== "opening" && end.state !== "reset";
        if (begun && !end.firstDue) this.post(side, end.acknowledge());
        this.forget(side);
    }

    deliver(side: Side, wire: number, count: number): void {
        const lanes = this.wires.map((one) => one.lanes[side]).filter((lane) => lane.length > 0);
        const lane = lanes[wire % Math.max(lanes.length, 1)];
        for (const frame of lane?.splice(0, count) ?? []) this.arrive(side, frame);
    }

    deliverWindow(side: Side, wire: number): void {
        const lanes = this.wires.map((one) => one.control[side]).filter((lane) => lane.length > 0);
        const frame = lanes[wire % Math.max(lanes.length, 1)]?.shift();
        const end = this.ends[side];
        if (!frame || !end) return;
        take(end, frame);
        this.forget(side);
    }

    private arrive(side: Side, frame: StreamFrame): void {
        if (frame.kind === "open") {
            if (!this.opened) {
                const { window } = frame;
                const mine = { opener: false, window: WINDOWS[1], peerWindow: window, replay: true };
                this.ends[1] = new StreamMachine(1, mine);
            }
            this.opened = true;
            return;
        }
        const end = this.ends[side];
        const last = frame.kind === "fin" || frame.kind === "reset";
        if (!end) {
            if (last) this.post(side, { kind: "window", streamId: 1, received: ENDED, limit: ENDED });
            return;
        }
        const fresh = take(end, frame);
        if (fresh instanceof Uint8Array) this.read[side].push(...fresh);
        if (last) this.post(side, end.acknowledge());
        this.whole[side] ||= end.whole;
        this.forget(side);
    }

    private forget(side: Side): void {
        if (this.ends[side]?.settled) this.ends[side] = null;
    }

    private post(sender: Side, frame: StreamFrame | null): void {
        const wire = this.wires[this.carrying[sender]];
        if (frame && wire) (frame.kind === "window" ? wire.control : wire.lanes)[other(sender)].push(frame);
    }

    // --- what always holds ---

    check(): void {
        for (const side of BOTH) {
            const [read, wrote] = [this.read[side], this.wrote[other(side)]];
            expect(read).toEqual(wrote.slice(0, read.length));
            if (this.whole[side]) expect(read.length).toBe(wrote.length);
            const end = this.ends[side];
            if (!end) continue;
            expect(end.sent - end.acked).toBeLessThanOrEqual(WINDOWS[other(side)]);
            expect(end.received - end.consumed).toBeGreaterThanOrEqual(0);
            expect(end.received - end.consumed).toBeLessThanOrEqual(WINDOWS[side]);
        }
    }

    /** Good weather at the end: all arrives, both finish, both agree and forget. */
    clearUp(): void {
        for (let round = 0; round < 8; round++) {
            for (const wire of this.wires.slice(0, -1)) wire.dead ||= wire.lanes.flat().length === 0;
            this.greet();
            for (const side of BOTH) this.goOver(side, 0);
            for (let again = 0; again < 3; again++) for (const side of BOTH) this.calm(side);
        }
        this.check();
        expect(this.ends).toEqual([null, null]);
        if (!this.wasReset) expect(this.whole).toEqual([true, true]);
    }

    private calm(side: Side): void {
        this.accept();
        this.catchUp(side, 4);
        for (const _ of this.wires) {
            this.deliver(side, 0, 1000);
            this.consume(side, 100);
            for (let window = 0; window < 100; window++) this.deliverWindow(side, 0);
        }
        this.finish(side);
    }
}

const side = fc.constantFrom<Side>(0, 1);
const small = fc.nat(9);
type Act = (ends: TwoEnds) => void;
const acts: fc.Arbitrary<Act> = fc.oneof(
    { weight: 1, arbitrary: fc.constant<Act>((ends) => ends.accept()) },
    {
        weight: 4,
        arbitrary: fc.tuple(side, small).map<Act>(
            ([s, size]) =>
                (ends) =>
                    ends.send(s, size),
        ),
    },
    { weight: 1, arbitrary: side.map<Act>((s) => (ends) => ends.finish(s)) },
    {
        weight: 1,
        arbitrary: fc.tuple(side, fc.nat(5)).map<Act>(
            ([s, dice]) =>
                (e) =>
                    dice || e.reset(s),
        ),
    },
    {
        weight: 3,
        arbitrary: fc.tuple(side, small).map<Act>(
            ([s, count]) =>
                (ends) =>
                    ends.consume(s, count),
        ),
    },
    { weight: 2, arbitrary: side.map<Act>((s) => (ends) => ends.catchUp(s, 3)) },
    { weight: 1, arbitrary: fc.nat(2).map<Act>((back) => (ends) => ends.cut(back)) },
    { weight: 2, arbitrary: fc.constant<Act>((ends) => ends.greet()) },
    {
        weight: 3,
        arbitrary: fc.tuple(side, fc.nat(1)).map<Act>(
            ([s, back]) =>
                (e) =>
                    e.goOver(s, back),
        ),
    },
    {
        weight: 6,
        arbitrary: fc.tuple(side, small, fc.integer({ min: 1, max: 4 })).map<Act>(
            ([s, wire, count]) =>
                (ends) =>
                    ends.deliver(s, wire, count),
        ),
    },
    {
        weight: 4,
        arbitrary: fc.tuple(side, small).map<Act>(
            ([s, wire]) =>
                (e) =>
                    e.deliverWindow(s, wire),
        ),
    },
);

it("no byte is lost and none comes twice, and both ends agree and forget", { timeout: 240_000 }, () => {
    fc.assert(
        fc.property(fc.array(acts, { maxLength: 120, size: "max" }), fc.boolean(), (story, settled) => {
            const ends = new TwoEnds();
            if (settled) {
                ends.deliver(1, 0, 1);
                ends.accept();
                ends.deliver(0, 0, 1);
            }
            for (const act of story) {
                act(ends);
                ends.check();
            }
            ends.clearUp();
        }),
        { numRuns: 400 },
    );
});
