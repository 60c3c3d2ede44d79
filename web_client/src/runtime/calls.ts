// Runtime, layer 2: CALL and REPLY: each call is answered once, whatever wires it and its reply travel on.

import { DeadlineExceeded, ProtocolError, RemoteError, type SessionClosed } from "../protocol/errors.ts";
import { type Call, encode, type Json, type Reply } from "../protocol/frames.ts";
import { CALLS_IN_FLIGHT } from "../protocol/limits.ts";
import type { Outbound } from "./outbound.ts";

interface Pending {
    readonly frame: Call;
    /** It went out over a wire: without a reply it is repeated on the next one, and the peer runs it once. */
    sent: boolean;
    readonly resolve: (result: Json) => void;
    readonly reject: (error: Error) => void;
    readonly timer: ReturnType<typeof setTimeout>;
}

const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true });

export class OutgoingCalls {
    private readonly outbound: Outbound;
    private readonly pending = new Map<string, Pending>();
    private count = 0;
    private round = 0;

    constructor(outbound: Outbound) {
        this.outbound = outbound;
    }

    get size(): number {
        return this.pending.size;
    }

    /** Send CALL and wait for its REPLY, at most `limit` seconds. Throws `RangeError` for params that are too large. */
    call(routeKey: string, params: Json, limit: number): Promise<Json> {
        if (this.pending.size >= CALLS_IN_FLIGHT)
            return Promise.reject(new RemoteError("busy", "too many calls are waiting"));
        const requestId = `c${++this.count}`;
        const timeoutMs = Math.max(1, Math.round(limit * 1000));
        const payload = utf8.encode(JSON.stringify(params));
        const frame: Call = { kind: "call", requestId, routeKey, timeoutMs, payload };
        encode(frame); // what no wire would take is refused now
        return new Promise((resolve, reject) => {
            const late = () => this.take(requestId)?.reject(new DeadlineExceeded(`call ${routeKey}`, limit));
            const timer = setTimeout(late, limit * 1000);
            const one: Pending = { frame, sent: false, resolve, reject, timer };
            this.pending.set(requestId, one);
            this.send(one).catch((error: Error) => this.take(requestId)?.reject(error));
        });
    }

    /** Send again, over another wire, what has no reply. */
    async repeat(): Promise<void> {
        const round = ++this.round;
        const again = [...this.pending.values()].filter((one) => one.sent);
        for (const one of again) if (round === this.round) await this.send(one);
    }

    /** Hand a reply to its call; one that nobody waits for any more is ignored. */
    receive(reply: Reply): void {
        const one = this.take(reply.requestId);
        if (!one) return;
        if (reply.error) {
            one.reject(new RemoteError(reply.error.code, reply.error.message));
            return;
        }
        try {
            one.resolve(JSON.parse(text.decode(reply.payload) || "{}") as Json);
        } catch (error) {
            const { routeKey } = one.frame;
            one.reject(new ProtocolError(`call ${routeKey}: result: ${(error as Error).message}`));
        }
    }

    /** The session has ended: every call fails. */
    end(error: SessionClosed): void {
        for (const requestId of [...this.pending.keys()]) this.take(requestId)?.reject(error);
    }

    private async send(one: Pending): Promise<void> {
        await this.outbound.room("control");
        if (this.pending.get(one.frame.requestId) !== one) return; // it was given up meanwhile
        one.sent = true;
        this.outbound.send("control", one.frame);
    }

    private take(requestId: string): Pending | undefined {
        const one = this.pending.get(requestId);
        this.pending.delete(requestId);
        clearTimeout(one?.timer);
        return one;
    }
}
