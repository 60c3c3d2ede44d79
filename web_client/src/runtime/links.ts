// Runtime, layer 2: one wire of a session, from its greeting until it is left or lost. Mirrors runtime/links.py.

import { SessionClosed, WireClosed } from "../protocol/errors.ts";
import type { Frame } from "../protocol/frames.ts";
import type { Lane } from "../protocol/lanes.ts";
import { MAX_FRAME } from "../protocol/limits.ts";
import type { Wire } from "../transport/wire.ts";

/**
 * What a wire is to its session: WELCOME is awaited; what we send goes here; we send elsewhere and what the peer sent
 * before its SWITCH may still come; gone.
 */
export type LinkState = "greeting" | "carrying" | "left" | "gone";

export const TRANSITIONS: Readonly<Record<LinkState, readonly LinkState[]>> = Object.freeze({
    greeting: ["carrying", "gone"],
    carrying: ["left", "gone"],
    left: ["gone"],
    gone: [],
});

export class Link {
    readonly wire: Wire;
    /** Resolves when it carries the session; rejects when it never will. */
    readonly settled: Promise<void>;
    /** The peer has sent SWITCH: nothing new comes. */
    quiet = false;
    /** What the peer said it has; null on a session's first wire. */
    positions: Readonly<Record<number, number>> | null = null;
    peerMaxFrame = MAX_FRAME;
    /** What came before the WELCOME that it belongs after. */
    early: [Lane, Frame][] = [];
    /** The peer was told that the session has ended. */
    farewell = false;
    /** Runs while the wire is being greeted, and while it is being left. */
    timer: ReturnType<typeof setTimeout> | undefined;
    private current: LinkState = "greeting";
    private carry: () => void = () => undefined;
    private refuse: (error: Error) => void = () => undefined;

    constructor(wire: Wire) {
        this.wire = wire;
        this.settled = new Promise((resolve, reject) => {
            this.carry = resolve;
            this.refuse = reject;
        });
        this.settled.catch(() => undefined); // somebody may or may not be waiting
    }

    get state(): LinkState {
        return this.current;
    }

    /** What we say we take on this wire. */
    get maxFrame(): number {
        return Math.min(MAX_FRAME, this.wire.maxFrame);
    }

    /** The one setter. */
    move(state: LinkState): void {
        if (!TRANSITIONS[this.current].includes(state))
            throw new SessionClosed(`a wire that is ${this.current} cannot become ${state}`);
        this.current = state;
        clearTimeout(this.timer);
        if (state === "carrying") this.carry();
    }

    /** Send beside the session's gate: greetings, SWITCH. A wire that is gone says so itself. */
    send(frame: Frame): void {
        try {
            this.wire.send("control", frame);
        } catch (error) {
            if (!(error instanceof WireClosed)) throw error;
        }
    }

    /** The session goes on elsewhere. */
    leave(): void {
        this.move("left");
        this.send({ kind: "switch" });
    }

    /** Note that it is gone; false when that was known. */
    end(error: Error): boolean {
        if (this.current === "gone") return false;
        this.move("gone");
        this.quiet = true;
        this.refuse(error);
        return true;
    }
}
