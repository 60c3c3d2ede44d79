// Runtime, layer 2: the gate out: every frame of a session leaves here. Mirrors runtime/outbound.py.
//
// While a session has no wire, what is sent is dropped and writers wait: streams and calls know what the peer may not
// have, and send it again over the next wire. A lane that the wire does not carry is as if there were none.

import { type SessionClosed, WireClosed } from "../protocol/errors.ts";
import { type Frame, HEADER_BYTES } from "../protocol/frames.ts";
import type { Lane } from "../protocol/lanes.ts";
import { DATA_CHUNK } from "../protocol/limits.ts";
import type { Wire } from "../transport/wire.ts";

export class Outbound {
    frames = 0;
    /** Bytes that one DATA may have on the present wire. */
    chunk = DATA_CHUNK;
    private wire: Wire | null = null;
    private ended: SessionClosed | null = null;
    private readonly waiting = new Set<() => void>();
    private readonly lost: (wire: Wire, error: WireClosed) => void;

    /** `lost` hears that a wire is gone; it may call `use()` or `end()`. */
    constructor(lost: (wire: Wire, error: WireClosed) => void) {
        this.lost = lost;
    }

    /** Send over `wire` from now on, in frames that both sides take; null: over none. */
    use(wire: Wire | null, maxFrame = 0): void {
        this.wire = wire;
        if (wire) this.chunk = Math.min(DATA_CHUNK, maxFrame - HEADER_BYTES, wire.maxFrame - HEADER_BYTES);
        this.wake();
    }

    /** The kind of the present wire if that does not carry the lane. */
    lacks(lane: Lane): string | null {
        const { wire } = this;
        return wire?.traits && !wire.traits.lanes.has(lane) ? wire.kind : null;
    }

    /** Queue a frame, or drop it without a wire that carries the lane. Throws `SessionClosed` when all has ended. */
    send(lane: Lane, frame: Frame): void {
        if (this.ended) throw this.ended;
        const { wire } = this;
        if (!wire || this.lacks(lane) !== null) return;
        try {
            wire.send(lane, frame);
            this.frames += 1;
        } catch (error) {
            if (!(error instanceof WireClosed)) throw error;
            this.lost(wire, error);
            if (this.ended) throw this.ended;
        }
    }

    /** Resolves when there is a wire that carries the lane and has room on it. Rejects `SessionClosed`. */
    async room(lane: Lane): Promise<void> {
        for (;;) {
            if (this.ended) throw this.ended;
            const { wire } = this;
            if (!wire || this.lacks(lane) !== null) await this.change();
            else if ((await this.drained(wire, lane)) && this.wire === wire) return;
        }
    }

    /** Refuse every further frame. */
    end(error: SessionClosed): void {
        this.ended = error;
        this.wire = null;
        this.wake();
    }

    /** Wait for the lane to drain, at most until the wire is another one; false: look again. */
    private async drained(wire: Wire, lane: Lane): Promise<boolean> {
        let changed: () => void = () => undefined;
        try {
            return await new Promise<boolean>((resolve, reject) => {
                changed = () => resolve(false);
                this.waiting.add(changed);
                wire.drained(lane).then(() => resolve(true), reject);
            });
        } catch (error) {
            if (!(error instanceof WireClosed)) throw error;
            this.lost(wire, error);
            return false;
        } finally {
            this.waiting.delete(changed);
        }
    }

    private change(): Promise<void> {
        return new Promise((resolve) => this.waiting.add(resolve));
    }

    private wake(): void {
        const waiting = [...this.waiting];
        this.waiting.clear();
        for (const resolve of waiting) resolve();
    }
}
