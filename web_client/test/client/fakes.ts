// Tests: what a client knocks by and comes by, without a network: the agents' channel, signaling, a peer, a road.

import type { PeerLike } from "../../src/client/connection.ts";
import { ConnectFailed } from "../../src/protocol/errors.ts";
import type { Road } from "../../src/transport/road.ts";
import type { Wire } from "../../src/transport/wire.ts";

export const AGENT = "00000000-0000-4000-8000-000000000001";

type Listener = (event: string, payload: unknown) => void;

/** The agents' channel: `knocked` gets what is sent, `say` answers. */
export class AgentsChannel {
    say: Listener = () => undefined;
    private readonly knocked: (event: string, payload: Record<string, unknown>) => void;

    constructor(knocked: (event: string, payload: Record<string, unknown>) => void) {
        this.knocked = knocked;
    }

    async joined(): Promise<void> {}

    async send(event: string, payload: Record<string, unknown>): Promise<void> {
        this.knocked(event, payload);
    }

    listen(listener: Listener): () => void {
        this.say = listener;
        return () => {
            this.say = () => undefined;
        };
    }
}

/** Joins at once, and says nothing to anybody. */
export const signaling = {
    join: async ({ topic }: { topic: string }) => ({
        topic,
        state: "joined" as const,
        send: async () => undefined,
        leave: async () => undefined,
    }),
};

/** A peer that describes itself; what comes of it is `wire`. */
export function peer(wire: () => Promise<Wire>, close: () => void = () => undefined): PeerLike {
    return {
        onCandidate: null,
        createOffer: async () => "v=0\r\na=ice-ufrag:abcd\r\n",
        applyAnswer: async () => undefined,
        addCandidate: async () => undefined,
        wire,
        close,
    };
}

/** A road by which `meet` brings a wire, if it is not called off: then `ended` is told. */
export function road(kind: string, meet: () => Promise<Wire>, ended: () => void): Road {
    return {
        kind,
        meet: (_meeting, signal) =>
            new Promise((resolve, reject) => {
                signal.addEventListener("abort", () => {
                    ended();
                    reject(new ConnectFailed("ended"));
                });
                meet().then(resolve, reject);
            }),
    };
}

/** It is tried for ever. */
export const never = () => new Promise<Wire>(() => undefined);
