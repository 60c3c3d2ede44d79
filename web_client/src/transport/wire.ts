// Transport, layer 0: what a wire is. One live connection to the peer, with one ordered road per lane.

import type { Frame } from "../protocol/frames.ts";
import type { Lane } from "../protocol/lanes.ts";

export type Receiver = (lane: Lane, frame: Frame) => void;

export interface WireStats {
    readonly kind: string;
    /** Such as "host → host, UDP", where the wire knows. */
    readonly path?: string;
    /** Over a TURN server. */
    readonly turn?: boolean;
    /** Round trip of the wire itself, in milliseconds. */
    readonly roundTrip?: number;
    readonly bytesSent: number;
    readonly bytesReceived: number;
    /** Bytes that wait to be sent. */
    readonly buffered?: number;
    /** The part of what was sent that was lost on the way, 0 to 1, where the wire knows. */
    readonly loss?: number;
}

/** What a session must know of a kind of wire. */
export interface Traits {
    /** Those it carries. Streams of the others wait for a better wire. */
    readonly lanes: ReadonlySet<Lane>;
    /** So many times slower the session asks whether the peer is there, and gives it up. */
    readonly patience: number;
}

/** Created open; once closed it stays closed. */
export interface Wire {
    readonly kind: string;
    /** Left out: every lane, and no more patience than usual. */
    readonly traits?: Traits;
    /** The largest frame in bytes that the wire carries. */
    readonly maxFrame: number;
    /** Resolves with the reason, one short sentence, when the wire is gone. Never rejects. */
    readonly closed: Promise<string>;
    /** Hand over what has arrived so far, then every further frame. Called once. */
    start(receiver: Receiver): void;
    /** Queue a frame. Throws `WireClosed`. */
    send(lane: Lane, frame: Frame): void;
    /** Resolves when the lane is below its low-water mark and no more urgent lane is over its own. Rejects `WireClosed`. */
    drained(lane: Lane): Promise<void>;
    close(reason?: string): void;
    /** Make ready what `farewell()` sends, on a wire that needs time for that. Called once. */
    prepareFarewell?(frame: Frame): void;
    /** Send that before this returns, as the last: a page that goes away has no time. False: it was not ready. */
    farewell?(): boolean;
    stats(): Promise<WireStats>;
}
