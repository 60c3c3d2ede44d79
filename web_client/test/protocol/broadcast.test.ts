// The stream over broadcasts and its letters, against the vectors that pytest reads too.

import { describe, expect, it } from "vitest";
import { Arq, type Parcel } from "../../src/protocol/arq.ts";
import { dump, Party, parse, Records, record } from "../../src/protocol/broadcast.ts";
import { MalformedMessage, ProtocolError } from "../../src/protocol/errors.ts";
import { wireTopic } from "../../src/protocol/ids.ts";
import { MAX_FRAME } from "../../src/protocol/limits.ts";
import { OVERHEAD } from "../../src/protocol/seal.ts";
import { fromHex, toHex, vectors } from "../vectors.ts";

interface Written {
    readonly number: number;
    readonly seen: number;
    readonly received: number;
    readonly beyond: number;
    readonly place?: number;
    readonly data?: string;
    readonly zeros?: number;
}

interface Step {
    readonly at: number;
    readonly do: "want" | "write" | "poll" | "receive" | "slow-down" | "lose-first";
    readonly data?: string;
    readonly zeros?: number;
    readonly parcel?: Written | null;
    readonly error?: string;
    readonly room: number;
    readonly deadline: number | null;
    readonly idle: boolean;
    readonly givenUp: boolean;
}

interface Vectors {
    readonly letters: readonly {
        readonly name: string;
        readonly payload: Record<string, unknown>;
        readonly letter: Record<string, unknown>;
        readonly again: boolean;
    }[];
    readonly refused: readonly {
        readonly name: string;
        readonly field: string;
        readonly payload: Record<string, unknown>;
    }[];
    readonly arq: readonly { readonly name: string; readonly steps: readonly Step[] }[];
}

const { letters, refused, arq } = vectors<Vectors>("broadcast");
const NOTHING: Parcel = { number: 1, seen: 0, received: 0, beyond: 0, place: null, data: new Uint8Array() };

function dataOf({ data, zeros }: { data?: string; zeros?: number }): Uint8Array {
    return zeros === undefined ? fromHex(data ?? "") : new Uint8Array(zeros);
}

function parcelOf(written: Written): Parcel {
    const { number, seen, received, beyond, place = null } = written;
    return { number, seen, received, beyond, place, data: dataOf(written) };
}

function act(end: Arq, step: Step): void {
    switch (step.do) {
        case "want":
            return end.want(step.at);
        case "write":
            return end.write(dataOf(step));
        case "slow-down":
            return end.pace.slowDown(step.at);
        case "lose-first":
            return end.loseFirst();
        case "poll":
            expect(end.poll(step.at)).toEqual(step.parcel ? parcelOf(step.parcel) : null);
            return;
        case "receive": {
            const receive = () => end.receive(parcelOf(step.parcel as Written), step.at);
            if (step.error) expect(receive).toThrow(ProtocolError);
            else expect(toHex(receive())).toBe(step.data);
        }
    }
}

describe("arq", () => {
    it.each(arq)("$name", ({ steps }) => {
        const end = new Arq(0);
        for (const step of steps) {
            act(end, step);
            const deadline = end.deadline(step.at);
            if (step.deadline === null) expect(deadline).toBeNull();
            else expect(deadline).toBeCloseTo(step.deadline, 4);
            expect([end.room(step.at), end.idle, end.givenUp]).toEqual([step.room, step.idle, step.givenUp]);
        }
    });
});

describe("letters", () => {
    it.each(letters)("$name", ({ payload, letter, again }) => {
        const found = parse(payload);
        const { zeros, ...rest } = letter as { zeros?: number };
        if (zeros === undefined)
            expect({ ...found, data: toHex(found.data) }).toEqual({ place: null, data: "", ...rest });
        else expect(found.data).toEqual(new Uint8Array(zeros));
        if (again) expect(dump(found)).toEqual(payload);
        expect(parse(dump(found))).toEqual(found);
    });

    it.each(refused)("refused: $name", ({ field, payload }) => {
        expect(() => parse(payload)).toThrow(MalformedMessage);
        expect(() => parse(payload)).toThrow(`wire: ${field}:`);
    });

    it("a farewell is text that can be written", () => {
        const payload = { role: "agent", from: "AAAAAAAA", number: 1, bye: "\ud800" };
        expect(() => parse(payload)).toThrow("wire: bye:");
    });

    it.each([null, 1, "x", []])("no object: %j", (payload) => {
        expect(() => parse(payload)).toThrow(MalformedMessage);
    });
});

describe("who is who on the topic", () => {
    const pair = () => [new Party("client", "client-1"), new Party("agent", "agent-01")] as const;

    it("two find each other, whoever speaks first", () => {
        const [client, agent] = pair();
        expect(agent.concerns(client.letter(NOTHING))).toBe(true);
        expect(client.concerns(agent.letter(NOTHING))).toBe(true);
        expect([client.peer, agent.peer]).toEqual(["agent-01", "client-1"]);
    });

    it("who was not chosen hears it; the same role and farewells are not listened to", () => {
        const [client, agent] = pair();
        const late = new Party("agent", "agent-02");
        expect(client.concerns(agent.letter(NOTHING, "gone"))).toBe(false);
        expect(client.concerns(new Party("client", "client-2").letter(NOTHING))).toBe(false);
        expect(late.concerns(client.letter(NOTHING))).toBe(true);
        client.concerns(agent.letter(NOTHING));
        expect(client.concerns(late.letter(NOTHING))).toBe(false);
        expect(() => late.concerns(client.letter(NOTHING))).toThrow("another connection");
    });

    it("has a topic", () => expect(wireTopic("A", "S")).toBe("agent:A:wire:S"));
});

describe("records", () => {
    it("come back however the stream is cut", () => {
        const records = [new Uint8Array(), new Uint8Array(300).fill(7), fromHex("0102")];
        const stream = records.flatMap((data) => [...record(data)]);
        for (const size of [1, 3, 7, 1000]) {
            const taking = new Records();
            const found: Uint8Array[] = [];
            for (let at = 0; at < stream.length; at += size)
                found.push(...taking.feed(Uint8Array.from(stream.slice(at, at + size))));
            expect(found).toEqual(records);
        }
    });

    it("are bounded", () => {
        const most = MAX_FRAME + OVERHEAD;
        expect(new Records().feed(record(new Uint8Array(most)))).toEqual([new Uint8Array(most)]);
        expect(() => new Records().feed(record(new Uint8Array(most + 1)))).toThrow(ProtocolError);
    });
});
