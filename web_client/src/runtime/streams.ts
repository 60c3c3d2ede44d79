// Runtime, layer 2: a session's streams: ids, the open table, frames to streams. Mirrors runtime/registry.py.
//
// The page opens streams and serves none: what the agent opens is refused, as often as it asks.

import { NotCarried, ProtocolError, RemoteError, SessionClosed } from "../protocol/errors.ts";
import { encode, type Frame, type Json, type Open, type StreamFrame } from "../protocol/frames.ts";
import type { Lane } from "../protocol/lanes.ts";
import {
    BULK_WINDOW,
    STREAMS_KEPT,
    STREAMS_PER_SESSION,
    STREAMS_STATED,
    TERMINAL_WINDOW,
} from "../protocol/limits.ts";
import { ENDED, StreamMachine } from "../protocol/stream.ts";
import type { Outbound } from "./outbound.ts";
import { Stream, type StreamHost } from "./stream.ts";

const WINDOWS: Readonly<Record<Lane, number>> = {
    control: TERMINAL_WINDOW,
    "terminal-io": TERMINAL_WINDOW,
    "browser-stream": BULK_WINDOW,
    "file-transfer": BULK_WINDOW,
};

export class Streams {
    /** Streams keep what the peer has not acknowledged; known before the first of them. */
    resumable = false;
    private readonly outbound: Outbound;
    private readonly host: StreamHost;
    private readonly table = new Map<number, Stream>();
    private nextId = 1; // the client's ids are odd

    constructor(outbound: Outbound) {
        this.outbound = outbound;
        this.host = {
            get chunk() {
                return outbound.chunk;
            },
            send: (lane, frame) => outbound.send(lane, frame),
            room: (lane) => outbound.room(lane),
            forget: (id) => void this.table.delete(id),
        };
    }

    /** Streams that go on; others are only kept until the peer knows of their end. */
    get size(): number {
        return [...this.table.values()].filter((stream) => !stream.ended).length;
    }

    /** Bytes kept for another wire. */
    get unacknowledged(): number {
        return [...this.table.values()].reduce((sum, stream) => sum + stream.unacknowledged, 0);
    }

    /** Send OPEN, once there is a wire, and wait for ACCEPT. Throws `RemoteError`, `NotCarried`, `SessionClosed`. */
    async open(service: string, method: string, params: Json, lane: Lane): Promise<Stream> {
        if (this.size >= STREAMS_PER_SESSION || this.table.size >= STREAMS_KEPT)
            throw new RemoteError("busy", "too many streams are open");
        const lacking = this.outbound.lacks(lane);
        if (lacking !== null) throw new NotCarried(lane, lacking);
        const window = WINDOWS[lane];
        const machine = new StreamMachine(this.nextId, { opener: true, window, replay: this.resumable });
        this.nextId += 2;
        const frame: Open = {
            kind: "open",
            streamId: machine.streamId,
            service,
            method,
            params,
            lane,
            window,
        };
        encode(frame); // what no wire would take is refused now
        if (this.resumable) machine.first = frame;
        const stream = new Stream(this.host, machine, lane);
        this.table.set(stream.id, stream);
        this.outbound.send(lane, frame);
        await stream.accepted;
        return stream;
    }

    /** What we have of every stream; one that is not named is sent again from what we acknowledged. */
    positions(): Record<number, number> {
        const newest = [...this.table.values()].slice(-STREAMS_STATED);
        return Object.fromEntries(newest.map((stream) => [stream.id, stream.position]));
    }

    /** Send again, over the wire there is now, what the peer does not have. Throws `ProtocolError`. */
    resume(positions: Readonly<Record<number, number>>): void {
        for (const stream of [...this.table.values()])
            if (stream.resume(positions[stream.id] ?? null)) stream.replay().catch(ended);
    }

    /** A frame of a stream. Late frames of one that is over are no news. Throws `ProtocolError`. */
    receive(lane: Lane, frame: StreamFrame): void {
        if (frame.kind === "open") {
            this.refuse(lane, frame);
            return;
        }
        const { kind, streamId } = frame;
        if (kind === "window" && lane !== "control") throw new ProtocolError(`WINDOW on lane ${lane}`);
        const stream = this.table.get(streamId);
        if (stream) {
            if (kind !== "window" && stream.lane !== lane)
                throw new ProtocolError(`stream ${streamId} belongs to lane ${stream.lane}, not ${lane}`);
            stream.receive(frame);
            return;
        }
        if (streamId % 2 === 1 && streamId >= this.nextId)
            throw new ProtocolError(`stream ${streamId} was never opened`);
        // Our acknowledgement was lost with a wire, the stream is forgotten: the peer shall forget too.
        if (this.resumable && (kind === "fin" || kind === "reset"))
            this.outbound.send("control", { kind: "window", streamId, received: ENDED, limit: ENDED });
    }

    /** The session has ended: every stream with it. */
    end(error: SessionClosed): void {
        for (const stream of [...this.table.values()]) stream.lose(error);
    }

    private refuse(lane: Lane, { streamId }: Open): void {
        if (streamId % 2 === 1) throw new ProtocolError(`stream id ${streamId} is not the peer's to open`);
        const refusal: Frame = {
            kind: "reset",
            streamId,
            code: "unknown-route",
            message: "the page offers no services",
        };
        this.outbound.send(lane, refusal);
    }
}

/** A replay that the end of its session has ended. */
function ended(error: unknown): void {
    if (!(error instanceof SessionClosed)) throw error;
}
