// Protocol: session frames to bytes and back. docs/wire.md §5; the vectors in protocol/vectors/frames.json are the law.

import { ProtocolError } from "./errors.ts";
import { isLane, type Lane } from "./lanes.ts";
import { JSON_BYTES, MAX_FRAME, NAME_CHARACTERS, SMALLEST_FRAME, STREAMS_STATED } from "./limits.ts";

export const PROTOCOL_VERSION = 1;
/** The most a DATA frame adds to its bytes: the kind and two numbers. */
export const HEADER_BYTES = 17;

export type Json = Record<string, unknown>;

export type Role = "client" | "agent";

interface Greeting {
    readonly version: number;
    readonly sessionId: string;
    readonly role: Role;
    readonly features: readonly string[];
    readonly maxFrame: number;
}

/** Which session goes on, and how far: stream id → position (`StreamMachine.position`). */
export interface Resume {
    readonly token: string;
    readonly streams: Readonly<Record<number, number>>;
}

export type Hello = Greeting & { readonly kind: "hello"; readonly client: Json; readonly resume?: Resume };
export type Welcome = Greeting & { readonly kind: "welcome"; readonly agent: Json; readonly resume?: Resume };
export type Open = {
    readonly kind: "open";
    readonly streamId: number;
    readonly service: string;
    readonly method: string;
    readonly params: Json;
    readonly lane: Lane;
    readonly window: number;
};
export type Accept = {
    readonly kind: "accept";
    readonly streamId: number;
    readonly result: Json;
    readonly window: number;
};
/** `offset` is the place of the bytes in their direction, so a repeat is seen as one. */
export type Data = {
    readonly kind: "data";
    readonly streamId: number;
    readonly offset: number;
    readonly payload: Uint8Array;
};
/** Acknowledges the bytes before `received` and allows those before `limit`. */
export type Window = {
    readonly kind: "window";
    readonly streamId: number;
    readonly received: number;
    readonly limit: number;
};
export type Fin = {
    readonly kind: "fin";
    readonly streamId: number;
    readonly length: number;
    readonly trailer: Json;
};
export type Reset = {
    readonly kind: "reset";
    readonly streamId: number;
    readonly code: string;
    readonly message: string;
};
export type Call = {
    readonly kind: "call";
    readonly requestId: string;
    readonly routeKey: string;
    readonly timeoutMs: number;
    readonly traceparent?: string;
    readonly payload: Uint8Array;
};
export type Reply = {
    readonly kind: "reply";
    readonly requestId: string;
    readonly error?: { readonly code: string; readonly message: string };
    readonly payload: Uint8Array;
};
export type Tell = {
    readonly kind: "tell";
    readonly routeKey: string;
    readonly traceparent?: string;
    readonly payload: Uint8Array;
};
export type Datagram = {
    readonly kind: "datagram";
    readonly streamId: number;
    readonly sequence: number;
    readonly payload: Uint8Array;
};
/** `timestamp` is in microseconds of the sender's clock; PONG brings it back. */
export type Ping = { readonly kind: "ping"; readonly timestamp: number };
export type Pong = { readonly kind: "pong"; readonly timestamp: number };
export type Switch = { readonly kind: "switch" };

export type StreamFrame = Open | Accept | Data | Window | Fin | Reset;
export type Frame = Hello | Welcome | StreamFrame | Call | Reply | Tell | Datagram | Ping | Pong | Switch;

// --- bytes out ----------------------------------------------------------------------------------------------

const utf8 = new TextEncoder();
type Part = number | Uint8Array;

/** Return the bytes of `frame`. Throws `RangeError` when a number or a body is out of range. */
export function encode(frame: Frame): Uint8Array<ArrayBuffer> {
    const whole = join(parts(frame));
    if (whole.length > MAX_FRAME) throw new RangeError(`frame longer than ${MAX_FRAME} bytes`);
    return whole;
}

function parts(frame: Frame): Part[] {
    switch (frame.kind) {
        case "hello":
            return [0x01, body({ ...greeting(frame), client: frame.client, resume: frame.resume })];
        case "welcome":
            return [0x02, body({ ...greeting(frame), agent: frame.agent, resume: frame.resume })];
        case "open": {
            const { service, method, params, lane, window } = frame;
            return [0x03, varint(frame.streamId), body({ service, method, params, lane, window })];
        }
        case "accept":
            return [0x04, varint(frame.streamId), body({ result: frame.result, window: frame.window })];
        case "data":
            return [0x05, varint(frame.streamId), varint(frame.offset), frame.payload];
        case "window":
            return [0x06, varint(frame.streamId), varint(frame.received), varint(frame.limit)];
        case "fin": {
            const trailer = Object.keys(frame.trailer).length > 0 ? body(frame.trailer) : new Uint8Array();
            return [0x07, varint(frame.streamId), varint(frame.length), trailer];
        }
        case "reset":
            return [0x08, varint(frame.streamId), body({ code: frame.code, message: frame.message })];
        case "call": {
            const { requestId, routeKey, timeoutMs, traceparent } = frame;
            return [0x09, ...head({ requestId, routeKey, timeoutMs, traceparent }), frame.payload];
        }
        case "reply":
            return [0x0a, ...head({ requestId: frame.requestId, error: frame.error }), frame.payload];
        case "tell":
            return [
                0x0b,
                ...head({ routeKey: frame.routeKey, traceparent: frame.traceparent }),
                frame.payload,
            ];
        case "datagram":
            return [0x0c, varint(frame.streamId), varint(frame.sequence), frame.payload];
        case "ping":
            return [0x0d, varint(frame.timestamp)];
        case "pong":
            return [0x0e, varint(frame.timestamp)];
        case "switch":
            return [0x0f];
    }
}

function greeting({ version, sessionId, role, features, maxFrame }: Greeting): Greeting {
    return { version, sessionId, role, features, maxFrame };
}

/** Unsigned LEB128, shortest form. */
function varint(value: number): Uint8Array {
    if (!Number.isSafeInteger(value) || value < 0)
        throw new RangeError("number must be 0 or more and below 2^53");
    const out: number[] = [];
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) out.push((rest % 0x80) | 0x80);
    out.push(rest);
    return Uint8Array.from(out);
}

function body(value: object): Uint8Array {
    const bytes = utf8.encode(JSON.stringify(value));
    if (bytes.length > JSON_BYTES) throw new RangeError(`body longer than ${JSON_BYTES} bytes`);
    return bytes;
}

function head(value: object): Part[] {
    const bytes = body(value);
    return [varint(bytes.length), bytes];
}

function join(all: Part[]): Uint8Array<ArrayBuffer> {
    const whole = new Uint8Array(
        all.reduce<number>((sum, p) => sum + (typeof p === "number" ? 1 : p.length), 0),
    );
    let at = 0;
    for (const part of all) {
        if (typeof part === "number") whole[at++] = part;
        else {
            whole.set(part, at);
            at += part.length;
        }
    }
    return whole;
}

// --- bytes in -----------------------------------------------------------------------------------------------

/** Return the frame, or null for an unknown kind that may be skipped. Throws `ProtocolError` with a position. */
export function decode(message: Uint8Array): Frame | null {
    const kind = message[0];
    if (kind === undefined) throw new ProtocolError("empty frame", 0);
    if (message.length > MAX_FRAME) throw new ProtocolError("frame too long", MAX_FRAME);
    const decoder = DECODERS[kind];
    if (decoder) return decoder(new Reader(message));
    if (kind >= 0x80) return null;
    throw new ProtocolError("unknown kind", 0);
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const LONE_SURROGATE = /\p{Surrogate}/u;

class Reader {
    private at = 1; // the kind is read already
    private readonly message: Uint8Array;

    constructor(message: Uint8Array) {
        this.message = message;
    }

    number(): number {
        const start = this.at;
        let value = 0;
        for (let index = 0; index < 8; index++) {
            const byte = this.message[start + index];
            if (byte === undefined) throw new ProtocolError("number cut short", start);
            value += (byte & 0x7f) * 0x80 ** index;
            if (byte >= 0x80) continue;
            if (value > Number.MAX_SAFE_INTEGER) throw new ProtocolError("number out of range", start);
            if (byte === 0 && index > 0) throw new ProtocolError("over-long number", start);
            this.at = start + index + 1;
            return value;
        }
        throw new ProtocolError("number out of range", start);
    }

    rest(): Uint8Array {
        return this.message.subarray(this.at);
    }

    /** The JSON body that fills the rest. */
    body(emptyMeansNone = false): Fields {
        if (emptyMeansNone && this.at === this.message.length) return new Fields({}, this.at);
        return this.fields(this.message.length);
    }

    /** The JSON body that follows its length. */
    head(): Fields {
        const end = this.number() + this.at;
        if (end > this.message.length) throw new ProtocolError("JSON body cut short", this.at);
        return this.fields(end);
    }

    end<T>(frame: T): T {
        if (this.at !== this.message.length) throw new ProtocolError("bytes after the frame", this.at);
        return frame;
    }

    private fields(end: number): Fields {
        const start = this.at;
        if (end - start > JSON_BYTES) throw new ProtocolError("JSON body too long", start);
        this.at = end;
        let value: unknown;
        try {
            value = JSON.parse(strictUtf8.decode(this.message.subarray(start, end)));
        } catch (error) {
            throw new ProtocolError(`bad JSON body: ${(error as Error).message}`, start);
        }
        if (!isObject(value)) throw new ProtocolError("bad JSON body: not an object", start);
        return new Fields(value, start);
    }
}

/** The checked members of a JSON body; unknown members are ignored. */
class Fields {
    readonly all: Json;
    private readonly position: number;

    constructor(all: Json, position: number) {
        this.all = all;
        this.position = position;
    }

    object(name: string, fallback?: Json): Json {
        const value = this.pick(name, fallback);
        return isObject(value) ? value : this.bad(name);
    }

    integer(name: string, least: number, fallback?: number, below = 2 ** 53): number {
        const value = this.pick(name, fallback);
        return Number.isInteger(value) && (value as number) >= least && (value as number) < below
            ? (value as number)
            : this.bad(name);
    }

    text(name: string, least: number, most: number): string {
        return this.checked(name, this.all[name], least, most);
    }

    name(name: string): string {
        return this.text(name, 1, NAME_CHARACTERS);
    }

    names(name: string): string[] {
        const value = this.pick(name, []);
        if (!Array.isArray(value) || value.length > 64) return this.bad(name);
        return value.map((one) => this.checked(name, one, 1, NAME_CHARACTERS));
    }

    route(): string {
        return this.text("routeKey", 3, 2 * NAME_CHARACTERS + 1);
    }

    lane(): Lane {
        const value = this.all.lane;
        return typeof value === "string" && isLane(value) ? value : this.bad("lane");
    }

    role(): Role {
        const value = this.all.role;
        return value === "client" || value === "agent" ? value : this.bad("role");
    }

    trace(): { traceparent?: string } {
        return (this.all.traceparent ?? null) === null ? {} : { traceparent: this.name("traceparent") };
    }

    error(): { error?: { code: string; message: string } } {
        if ((this.all.error ?? null) === null) return {};
        const fields = new Fields(this.object("error"), this.position);
        return { error: { code: fields.name("code"), message: fields.text("message", 0, 1024) } };
    }

    greeting(): Greeting {
        return {
            version: this.integer("version", 1),
            sessionId: this.name("sessionId"),
            role: this.role(),
            features: this.names("features"),
            maxFrame: this.integer("maxFrame", SMALLEST_FRAME, MAX_FRAME),
        };
    }

    resume(): { resume?: Resume } {
        if (this.all.resume === undefined) return {};
        const fields = new Fields(this.object("resume"), this.position);
        return { resume: { token: fields.name("token"), streams: fields.positions("streams") } };
    }

    /** Stream ids and how far each was received. */
    private positions(name: string): Record<number, number> {
        const all = Object.entries(this.object(name, {}));
        if (all.length > STREAMS_STATED) return this.bad(name);
        for (const [id, position] of all) {
            if (!/^(0|[1-9]\d*)$/.test(id) || !Number.isSafeInteger(Number(id))) return this.bad(name);
            if (!Number.isSafeInteger(position) || (position as number) < 0) return this.bad(name);
        }
        return Object.fromEntries(all) as Record<number, number>;
    }

    private pick(name: string, fallback: unknown): unknown {
        return this.all[name] === undefined ? fallback : this.all[name];
    }

    private checked(name: string, value: unknown, least: number, most: number): string {
        if (typeof value !== "string" || LONE_SURROGATE.test(value)) return this.bad(name);
        const length = [...value].length;
        return length >= least && length <= most ? value : this.bad(name);
    }

    private bad(name: string): never {
        throw new ProtocolError(`bad JSON body: ${name}`, this.position);
    }
}

function isObject(value: unknown): value is Json {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}

const DECODERS: Readonly<Record<number, (reader: Reader) => Frame>> = {
    1: (r) => {
        const fields = r.body();
        const client = fields.object("client", {});
        return { kind: "hello", ...fields.greeting(), client, ...fields.resume() };
    },
    2: (r) => {
        const fields = r.body();
        const agent = fields.object("agent", {});
        return { kind: "welcome", ...fields.greeting(), agent, ...fields.resume() };
    },
    3: (r) => {
        const streamId = r.number();
        const fields = r.body();
        return {
            kind: "open",
            streamId,
            service: fields.name("service"),
            method: fields.name("method"),
            params: fields.object("params"),
            lane: fields.lane(),
            window: fields.integer("window", 0),
        };
    },
    4: (r) => {
        const streamId = r.number();
        const fields = r.body();
        return {
            kind: "accept",
            streamId,
            result: fields.object("result"),
            window: fields.integer("window", 0),
        };
    },
    5: (r) => ({ kind: "data", streamId: r.number(), offset: r.number(), payload: r.rest() }),
    6: (r) => r.end({ kind: "window", streamId: r.number(), received: r.number(), limit: r.number() }),
    7: (r) => ({ kind: "fin", streamId: r.number(), length: r.number(), trailer: r.body(true).all }),
    8: (r) => {
        const streamId = r.number();
        const fields = r.body();
        return {
            kind: "reset",
            streamId,
            code: fields.name("code"),
            message: fields.text("message", 0, 1024),
        };
    },
    9: (r) => {
        const fields = r.head();
        return {
            kind: "call",
            requestId: fields.name("requestId"),
            routeKey: fields.route(),
            timeoutMs: fields.integer("timeoutMs", 1, undefined, 2 ** 31),
            ...fields.trace(),
            payload: r.rest(),
        };
    },
    10: (r) => {
        const fields = r.head();
        return { kind: "reply", requestId: fields.name("requestId"), ...fields.error(), payload: r.rest() };
    },
    11: (r) => {
        const fields = r.head();
        return { kind: "tell", routeKey: fields.route(), ...fields.trace(), payload: r.rest() };
    },
    12: (r) => ({ kind: "datagram", streamId: r.number(), sequence: r.number(), payload: r.rest() }),
    13: (r) => r.end({ kind: "ping", timestamp: r.number() }),
    14: (r) => r.end({ kind: "pong", timestamp: r.number() }),
    15: (r) => r.end({ kind: "switch" }),
};
