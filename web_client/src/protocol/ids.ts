// Protocol: the ids, and the names of topics made from them (protocol/ids.py).

import { InvalidInput } from "./errors.ts";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const TOKEN = /^[A-Za-z0-9_-]{8,64}$/;

export function agentId(text: string): string {
    return checked("agentId", text, UUID, "must be a lower-case UUID");
}

export function userId(text: string): string {
    return checked("userId", text, UUID, "must be a lower-case UUID");
}

export function sessionId(text: string): string {
    return checked("sessionId", text, TOKEN, "must be 8 to 64 of A-Z a-z 0-9 _ -");
}

export function clientId(text: string): string {
    return checked("clientId", text, TOKEN, "must be 8 to 64 of A-Z a-z 0-9 _ -");
}

/** The presence channel of one owner's agents and clients. */
export function agentsTopic(user: string): string {
    return `user:${user}:agents`;
}

/** The on-demand signaling channel of one agent. */
export function signalingTopic(agent: string): string {
    return `agent:${agent}:signaling`;
}

/** The channel over which one session may go when there is no other road. */
export function wireTopic(agent: string, session: string): string {
    return `agent:${agent}:wire:${session}`;
}

function checked(field: string, text: string, pattern: RegExp, rule: string): string {
    if (!pattern.test(text)) throw new InvalidInput(field, rule);
    return text;
}
