// Protocol: the messages of a wire over Realtime broadcasts, who they are for, and the records in the stream they carry;
// mirrors protocol/broadcast.py.

import type { Parcel } from "./arq.ts";
import { type InvalidInput, MalformedMessage, ProtocolError } from "./errors.ts";
import type { Role } from "./frames.ts";
import { clientId } from "./ids.ts";
import { BROADCAST_BYTES, MAX_FRAME, TEXT_BYTES } from "./limits.ts";
import { OVERHEAD } from "./seal.ts";

export const EVENT = "wire";

const utf8 = new TextEncoder();
const LONE_SURROGATE = /\p{Surrogate}/u;
const LENGTH = 4;
const MOST_BEYOND = 2 ** 31 - 1;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** One broadcast. `bye` says that its sender is gone, and why. */
export interface Letter extends Parcel {
    readonly role: Role;
    readonly from: string;
    readonly to: string;
    readonly bye: string | null;
}

/** Read a broadcast of the event `EVENT`. Throws `MalformedMessage`. */
export function parse(payload: unknown): Letter {
    if (typeof payload !== "object" || payload === null || Array.isArray(payload)) throw wrong("payload");
    const given = payload as Readonly<Record<string, unknown>>;
    const { role, from, to = "", number, seen = 0, received = 0, beyond = 0 } = given;
    const { place = null, data = "", bye = null } = given;
    if (role !== "client" && role !== "agent") throw wrong("payload");
    if (typeof from !== "string" || typeof to !== "string") throw wrong("payload");
    name("from", from);
    if (to !== "") name("to", to);
    const letter = {
        role: role as Role,
        from,
        to,
        number: count("number", number),
        seen: count("seen", seen),
        received: count("received", received),
        beyond: count("beyond", beyond, MOST_BEYOND),
        place: place === null ? null : count("place", place),
        data: bytes(data),
        bye: text(bye),
    };
    if ((letter.place === null) !== (letter.data.length === 0) || letter.data.length > BROADCAST_BYTES)
        throw wrong("data");
    return letter;
}

/** The JSON-ready payload. */
export function dump(letter: Letter): Record<string, unknown> {
    const { role, from, to, number, seen, received, beyond, place, data, bye } = letter;
    return {
        role,
        from,
        ...(to !== "" && { to }),
        number,
        ...(seen > 0 && { seen }),
        ...(received > 0 && { received }),
        ...(beyond > 0 && { beyond }),
        ...(place !== null && { place, data: base64(data) }),
        ...(bye !== null && { bye }),
    };
}

/** Who we are on the topic, and whom we talk to there. */
export class Party {
    peer = "";
    private readonly role: Role;
    private readonly ours: string;

    constructor(role: Role, ours: string) {
        this.role = role;
        this.ours = ours;
    }

    letter(parcel: Parcel, bye: string | null = null): Letter {
        return { role: this.role, from: this.ours, to: this.peer, ...parcel, bye };
    }

    /** Whether the letter is for us; the first one chooses the peer. Throws `ProtocolError` when that has chosen another. */
    concerns(letter: Letter): boolean {
        if (letter.role === this.role) return false;
        const ours = letter.to === "" || letter.to === this.ours;
        if (this.peer === "" && ours && letter.bye === null) this.peer = letter.from;
        if (letter.from !== this.peer) return false;
        if (!ours) throw new ProtocolError("the peer talks to another connection of this session");
        return true;
    }
}

/** `data` as it stands in the stream. */
export function record(data: Uint8Array): Uint8Array {
    const whole = new Uint8Array(LENGTH + data.length);
    new DataView(whole.buffer).setUint32(0, data.length);
    whole.set(data, LENGTH);
    return whole;
}

/** Takes the stream apart. */
export class Records {
    private rest = new Uint8Array();

    /** The records that are whole now. Throws `ProtocolError` for one that is too large. */
    feed(data: Uint8Array): Uint8Array<ArrayBuffer>[] {
        const stream = new Uint8Array(this.rest.length + data.length);
        stream.set(this.rest);
        stream.set(data, this.rest.length);
        const [found, view]: [Uint8Array<ArrayBuffer>[], DataView] = [[], new DataView(stream.buffer)];
        let at = 0;
        while (stream.length - at >= LENGTH) {
            const size = view.getUint32(at);
            if (size > MAX_FRAME + OVERHEAD) throw new ProtocolError(`a record of ${size} bytes`);
            if (stream.length - at < LENGTH + size) break;
            found.push(stream.slice(at + LENGTH, at + LENGTH + size));
            at += LENGTH + size;
        }
        this.rest = stream.slice(at);
        return found;
    }
}

function count(field: string, value: unknown, most = Number.MAX_SAFE_INTEGER): number {
    if (typeof value !== "number" || !Number.isInteger(value)) throw wrong("payload");
    if (value < 0 || value > most) throw wrong(field);
    return value;
}

function name(field: string, value: string): void {
    try {
        clientId(value);
    } catch (error) {
        throw new MalformedMessage(EVENT, field, (error as InvalidInput).reason);
    }
}

function text(value: unknown): string | null {
    if (value !== null && typeof value !== "string") throw wrong("payload");
    if (value !== null && (LONE_SURROGATE.test(value) || utf8.encode(value).length > TEXT_BYTES))
        throw wrong("bye");
    return value;
}

function bytes(value: unknown): Uint8Array {
    if (typeof value !== "string" || !BASE64.test(value)) throw wrong("payload");
    return Uint8Array.from(atob(value), (character) => character.charCodeAt(0));
}

function base64(data: Uint8Array): string {
    return btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
}

function wrong(field: string): MalformedMessage {
    return new MalformedMessage(EVENT, field, "has a value that is not allowed");
}
