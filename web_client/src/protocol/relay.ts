// Protocol: the relay's own words (docs/wire.md, "The relay"); mirrors protocol/relay.py.
//
// A socket says `join` first, in a text message; the access token is in there and never in a URL. The relay answers
// `waiting` and, when the other role of the session has joined, tells both `paired`. From then on binary messages go
// through unread. `token` brings a newer access token, which is answered with `renewed`.

import { InvalidInput, ProtocolError } from "./errors.ts";
import type { Role } from "./frames.ts";

export const PATH = "/relay/v1";

/** Close codes (RFC 6455 section 7.4.2 leaves 4000 to 4999 to us); the reason is one sentence. */
export const END = {
    invalid: 4400,
    unauthorized: 4401,
    forbidden: 4403,
    timeout: 4408,
    replaced: 4409,
    peerLeft: 4410,
    quota: 4413,
    slow: 4414,
    busy: 4429,
} as const;

export interface Join {
    readonly event: "join";
    readonly sessionId: string;
    readonly agentId: string;
    readonly role: Role;
    readonly token: string;
}

/** A newer access token of the same user. */
export interface NewToken {
    readonly event: "token";
    readonly token: string;
}

/** The other side is waited for, so many seconds. */
export interface Waiting {
    readonly event: "waiting";
    readonly seconds: number;
}

/** Both are here. A newer token must come within `tokenSeconds`. */
export interface Paired {
    readonly event: "paired";
    readonly tokenSeconds: number;
    readonly maxMessage: number;
}

/** The new token is accepted; the next one must come within `tokenSeconds`. */
export interface Renewed {
    readonly event: "renewed";
    readonly tokenSeconds: number;
}

export type Notice = Waiting | Paired | Renewed;

const NUMBERS: Readonly<Record<Notice["event"], readonly string[]>> = {
    waiting: ["seconds"],
    paired: ["tokenSeconds", "maxMessage"],
    renewed: ["tokenSeconds"],
};

/** The text of what a socket says to the relay. */
export function dump(message: Join | NewToken): string {
    return JSON.stringify(message);
}

/** Read what the relay says; unknown fields are ignored. Throws `ProtocolError`. */
export function parseNotice(text: string): Notice {
    let value: unknown;
    try {
        value = JSON.parse(text);
    } catch {
        value = null;
    }
    const given = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
    const event = String(given.event);
    const numbers = Object.hasOwn(NUMBERS, event) ? NUMBERS[event as Notice["event"]] : null;
    if (!numbers?.every((name) => typeof given[name] === "number"))
        throw new ProtocolError("not a message of the relay");
    return value as Notice;
}

/**
 * The WebSocket URL of `relay`, which is a path at the back end or a URL of its own (http or ws).
 *
 * Throws `InvalidInput` for anything else: access tokens are sent there.
 */
export function relayUrl(backend: string, relay: string = PATH): string {
    const text = relay.startsWith("/") ? backend.replace(/\/+$/, "") + relay : relay;
    const url = URL.canParse(text) ? new URL(text) : null;
    const scheme = url && { "http:": "ws:", "ws:": "ws:", "https:": "wss:", "wss:": "wss:" }[url.protocol];
    if (!url || !scheme || url.username || url.password || url.search || url.hash)
        throw new InvalidInput(
            "relay",
            "must be a path or a URL of ws, wss, http or https, without anything secret",
        );
    return `${scheme}//${url.host}${url.pathname.replaceAll("/", "") ? url.pathname : PATH}`;
}
