// Transport, layer 1: ways to a wire that need no session descriptions: both sides come to the same place.
//
// Who comes by a `Road` says its kind among the `capabilities` of the knock and of the ready. Where the place is each side
// is configured with; no message says it. Mirrors transport/road.py.

import type { Prover } from "../protocol/seal.ts";
import type { Timing } from "../protocol/timing.ts";
import { openBroadcast } from "./broadcast.ts";
import type { OwnSignaling } from "./broadcast_link.ts";
import { openRelay } from "./relay.ts";
import type { OpenSocket, Token } from "./relay_socket.ts";
import type { Wire } from "./wire.ts";

export interface Meeting {
    readonly sessionId: string;
    readonly agentId: string;
    readonly prover: Prover;
}

export interface Road {
    /** Its word among the capabilities, and the kind of its wires. */
    readonly kind: string;
    /** Taken when every other has failed or is late: `timing.broadcast…`. */
    readonly costly?: boolean;
    /**
     * Come to the place; the wire, when the agent has come and both have proved themselves. Rejects with a `DoorstepError`:
     * one whose `wait` is set means that nobody came in time and may be tried again. `signal` ends it at any time.
     */
    meet(meeting: Meeting, signal: AbortSignal): Promise<Wire>;
}

/** By the relay at `url`, as `relayUrl` gives it. */
export function relayRoad(url: string, token: Token, timing: Timing, openSocket?: OpenSocket): Road {
    const more = openSocket && { openSocket };
    return {
        kind: "relay",
        meet: (meeting, signal) =>
            openRelay({ url, role: "client", token, timing, ...meeting, ...more }, signal),
    };
}

/** Over the session's own channel; `signaling` gives a connection of its own for each wire. */
export function broadcastRoad(signaling: () => OwnSignaling, timing: Timing): Road {
    return {
        kind: "broadcast",
        costly: true,
        meet: (meeting, signal) =>
            openBroadcast({ signaling: signaling(), role: "client", timing, ...meeting }, signal),
    };
}
