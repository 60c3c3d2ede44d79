// Protocol: the signaling messages, their wire form and their checks (docs/wire.md §2); mirrors protocol/signaling.py.

import { InvalidInput, MalformedMessage } from "./errors.ts";
import { agentId, clientId, sessionId } from "./ids.ts";
import {
    CANDIDATE_BYTES,
    CANDIDATES_PER_MESSAGE,
    CAPABILITIES,
    ICE_SERVERS,
    SDP_BYTES,
    TEXT_BYTES,
    WORD_BYTES,
} from "./limits.ts";

/** A STUN or TURN server, as in W3C `RTCIceServer`; `urls` is always a list here. */
export interface IceServer {
    readonly urls: string[];
    readonly username?: string;
    readonly credential?: string;
}

/** The JSON form of a proof (protocol/proof.ts). */
export type ProofFields = Readonly<Record<string, string>>;

export interface ConnectionRequest {
    readonly event: "connection-request";
    readonly agentId: string;
    readonly sessionId?: string;
    readonly clientId?: string;
    readonly capabilities?: readonly string[];
    readonly offer?: string;
    readonly proof?: ProofFields;
}

export interface ConnectionReady {
    readonly event: "connection-ready";
    readonly agentId: string;
    readonly sessionId?: string;
    readonly answer?: string;
    /** The ICE username fragment of the offer that is answered. */
    readonly replyTo?: string;
    readonly iceServers?: readonly IceServer[];
    /** Those of the request that the agent has too: it comes there as well. */
    readonly capabilities?: readonly string[];
    readonly proof?: ProofFields;
}

export interface ConnectionRefused {
    readonly event: "connection-refused";
    readonly agentId: string;
    readonly code: string;
    readonly message: string;
    readonly sessionId?: string;
    /** Seconds. */
    readonly retryAfter?: number;
    /** As in a ready: the peer connection came to nothing, but the agent comes there. */
    readonly capabilities?: readonly string[];
}

export interface Offer {
    readonly event: "offer";
    readonly sdp: string;
    readonly sessionId?: string;
    readonly proof?: ProofFields;
}

export interface Answer {
    readonly event: "answer";
    readonly sdp: string;
    readonly sessionId?: string;
    readonly replyTo?: string;
    readonly proof?: ProofFields;
}

/** W3C `RTCIceCandidateInit`; an empty `candidate` means there are no more. */
export interface IceCandidate {
    readonly candidate: string;
    readonly sdpMid: string | null;
    readonly sdpMLineIndex?: number;
    readonly usernameFragment?: string;
}

export interface Candidate extends IceCandidate {
    readonly event: "candidate";
    readonly sessionId?: string;
    readonly from?: string;
    /** Further candidates of the same sender. */
    readonly more?: readonly IceCandidate[];
}

export type Message = ConnectionRequest | ConnectionReady | ConnectionRefused | Offer | Answer | Candidate;

/** Checks one value and returns it; throws `InvalidInput` naming `field`. */
type Check = (field: string, value: unknown) => unknown;
/** Field name → its check; a name that ends in `!` is required. */
type Shape = Readonly<Record<string, Check>>;

const utf8 = new TextEncoder();
const LONE_SURROGATE = /\p{Surrogate}/u;

const text =
    (most: number, least = 0): Check =>
    (field, value) => {
        if (typeof value !== "string" || LONE_SURROGATE.test(value))
            throw new InvalidInput(field, "must be text");
        const size = utf8.encode(value).length;
        if (size < least) throw new InvalidInput(field, "must not be empty");
        if (size > most) throw new InvalidInput(field, `must have at most ${most} bytes`);
        return value;
    };

const id =
    (check: (value: string) => string): Check =>
    (field, value) => {
        if (typeof value !== "string") throw new InvalidInput(field, "must be text");
        return check(value);
    };

const list =
    (most: number, each: Check): Check =>
    (field, value) => {
        if (!Array.isArray(value)) throw new InvalidInput(field, "must be a list");
        if (value.length > most) throw new InvalidInput(field, `must have at most ${most} entries`);
        return value.map((one) => each(field, one));
    };

const nullable =
    (check: Check): Check =>
    (field, value) =>
        value === null ? null : check(field, value);

const object =
    (shape: Shape): Check =>
    (field, value) => {
        if (!isObject(value)) throw new InvalidInput(field, "must be an object");
        try {
            return pick(value, shape);
        } catch (error) {
            throw error instanceof InvalidInput ? new InvalidInput(field, error.message) : error;
        }
    };

const proof: Check = (field, value) => {
    if (!isObject(value)) throw new InvalidInput(field, "must be an object");
    const entries = Object.entries(value);
    if (entries.length > CAPABILITIES)
        throw new InvalidInput(field, `must have at most ${CAPABILITIES} entries`);
    for (const [key, one] of entries) {
        word(field, key);
        sentence(field, one);
    }
    return value;
};

const lineIndex: Check = (field, value) => {
    if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > 65535)
        throw new InvalidInput(field, "must be 0 to 65535");
    return value;
};

const pause: Check = (field, value) => {
    if (typeof value !== "number" || !Number.isFinite(value) || value < 0)
        throw new InvalidInput(field, "must be a number of seconds, 0 or more");
    return value;
};

const sdp = text(SDP_BYTES, 1);
const word = text(WORD_BYTES);
const sentence = text(TEXT_BYTES);
const session = { sessionId: id(sessionId) };
const ice: Shape = {
    "candidate!": text(CANDIDATE_BYTES),
    "sdpMid!": nullable(word),
    sdpMLineIndex: lineIndex,
    usernameFragment: word,
};
const iceServer: Shape = {
    "urls!": list(ICE_SERVERS, sentence),
    username: sentence,
    credential: sentence,
};

const SHAPES: Readonly<Record<Message["event"], Shape>> = {
    "connection-request": {
        "agentId!": id(agentId),
        ...session,
        clientId: id(clientId),
        capabilities: list(CAPABILITIES, word),
        offer: sdp,
        proof,
    },
    "connection-ready": {
        "agentId!": id(agentId),
        ...session,
        answer: sdp,
        replyTo: word,
        iceServers: list(ICE_SERVERS, object(iceServer)),
        capabilities: list(CAPABILITIES, word),
        proof,
    },
    "connection-refused": {
        "agentId!": id(agentId),
        "code!": word,
        "message!": sentence,
        ...session,
        retryAfter: pause,
        capabilities: list(CAPABILITIES, word),
    },
    offer: { "sdp!": sdp, ...session, proof },
    answer: { "sdp!": sdp, ...session, replyTo: word, proof },
    candidate: {
        ...ice,
        ...session,
        from: word,
        more: list(CANDIDATES_PER_MESSAGE - 1, object(ice)),
    },
};

const ALIASES: Readonly<Record<string, Message["event"]>> = {
    "signal-offer": "offer",
    "signal-answer": "answer",
    "signal-candidate": "candidate",
};

/** Read a broadcast. Throws `MalformedMessage` with the top-level field that is wrong. */
export function parse(event: string, payload: unknown): Message {
    const known = Object.hasOwn(ALIASES, event) ? ALIASES[event] : event;
    const shape = Object.hasOwn(SHAPES, known ?? "") ? SHAPES[known as Message["event"]] : undefined;
    if (!shape)
        throw new MalformedMessage(event.slice(0, WORD_BYTES), "event", "is not an event of this protocol");
    if (!isObject(payload)) throw new MalformedMessage(event, "payload", "must be an object");
    try {
        return { event: known, ...pick(payload, shape) } as unknown as Message;
    } catch (error) {
        if (error instanceof InvalidInput) throw new MalformedMessage(event, error.field, error.reason);
        throw error;
    }
}

/** Check a message of ours and return its event and payload; empty and undefined fields are left out. */
export function dump(message: Message): [event: string, payload: Record<string, unknown>] {
    const { event, ...fields } = message;
    const payload = pick(fields, SHAPES[event]);
    for (const [field, value] of Object.entries(payload)) {
        if (value === undefined || (Array.isArray(value) && value.length === 0 && field !== "iceServers"))
            delete payload[field];
    }
    return [event, payload];
}

/** The ICE username fragments of a description, in order (RFC 8839 §5.4); empty if it names none. */
export function iceUfrags(description: string): string[] {
    return [...description.matchAll(/^a=ice-ufrag:(\S+)\s*$/gm)].map((match) => match[1] ?? "");
}

/** The candidate and those of `more`, each on its own. */
export function each(candidate: Candidate): IceCandidate[] {
    const { event: _event, sessionId: _session, from: _from, more = [], ...first } = candidate;
    return [first, ...more];
}

/** The checked fields of `shape`. A null is an absent optional field. */
function pick(value: Record<string, unknown>, shape: Shape): Record<string, unknown> {
    const picked: Record<string, unknown> = {};
    for (const marked of Object.keys(shape)) {
        if (marked.endsWith("!") && !Object.hasOwn(value, marked.slice(0, -1)))
            throw new InvalidInput(marked.slice(0, -1), "is required");
    }
    for (const [marked, check] of Object.entries(shape)) {
        const required = marked.endsWith("!");
        const field = required ? marked.slice(0, -1) : marked;
        const one = Object.hasOwn(value, field) ? value[field] : undefined;
        if (required || (one !== undefined && one !== null)) picked[field] = check(field, one);
    }
    return picked;
}

function isObject(value: unknown): value is Record<string, unknown> {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}
