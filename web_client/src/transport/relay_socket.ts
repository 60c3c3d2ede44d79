// Transport, below the relay wire: a paired socket at a relay (RFC 6455; WHATWG WebSockets).

import {
    ConnectFailed,
    DeadlineExceeded,
    type DoorstepError,
    ProtocolError,
    Unauthorized,
    WireClosed,
} from "../protocol/errors.ts";
import type { Bytes } from "../protocol/proof.ts";
import { dump, END, type Join, type Notice, type Paired, parseNotice } from "../protocol/relay.ts";
import type { Timing } from "../protocol/timing.ts";

/** Gives an access token that is good for a while yet. */
export type Token = () => Promise<string>;

/** What is used of a browser's `WebSocket`. */
export interface Socket {
    binaryType: BinaryType;
    readonly bufferedAmount: number;
    onopen: (() => void) | null;
    onmessage: ((event: { data: unknown }) => void) | null;
    onclose: ((event: { code: number; reason: string }) => void) | null;
    send(data: string | Bytes): void;
    close(code?: number): void;
}

export type OpenSocket = (url: string) => Socket;

/** A browser takes messages whether they are read or not; the session's windows allow a peer far less than this. */
const INBOX_BYTES = 32 * 1024 * 1024;
/** Bytes given to the browser and not yet sent: what a keystroke waits for. */
const OUTBOX_BYTES = 64 * 1024;
/** Milliseconds between two looks at a full outbox; no event tells that it has emptied. Hidden pages are woken by what comes. */
const LOOK = 4;
/** The part of a token's life after which the relay is told the next one. */
const RENEW = 0.75;
/** Seconds until a token that could not be had is asked for again; and at least between two tokens. */
const AGAIN = 5;

const openWebSocket: OpenSocket = (url) => new WebSocket(url) as Socket;

/** A socket of one session at a relay. After `open` it is paired. */
export class RelaySocket {
    readonly url: string;
    /** Resolves with the reason when the socket is gone. Never rejects. */
    readonly closed: Promise<string>;

    private readonly socket: Socket;
    private readonly token: Token;
    private readonly inbox: (string | Bytes)[] = [];
    private inboxBytes = 0;
    private reader: (() => void) | null = null;
    private look: (() => void) | null = null;
    private end: (reason: string) => void = () => undefined;
    private reason: string | null = null;
    private code = 0;
    private renewal: ReturnType<typeof setTimeout> | undefined;

    private constructor(url: string, socket: Socket, token: Token) {
        this.url = url;
        this.socket = socket;
        this.token = token;
        this.closed = new Promise((resolve) => {
            this.end = resolve;
        });
        socket.binaryType = "arraybuffer";
        socket.onmessage = ({ data }) => this.arrived(data);
        socket.onclose = ({ code, reason }) => this.ended(code, inWords(code, reason));
    }

    /**
     * Connect, join, and wait for the other side. Rejects with `ConnectFailed`, `Unauthorized`, `DeadlineExceeded` (nobody
     * came) or `ProtocolError`. `signal` ends it at any time.
     */
    static async open(
        url: string,
        join: Omit<Join, "token" | "event">,
        token: Token,
        timing: Timing,
        signal: AbortSignal,
        openSocket: OpenSocket = openWebSocket,
    ): Promise<RelaySocket> {
        const first = await token();
        if (signal.aborted) throw new ConnectFailed("no longer wanted");
        const socket = openSocket(url);
        const opened = new RelaySocket(url, socket, token);
        const abort = () => opened.close();
        signal.addEventListener("abort", abort, { once: true });
        try {
            await opened.join(dump({ event: "join", ...join, token: first }), timing);
        } catch (error) {
            opened.close();
            throw error instanceof WireClosed ? opened.refusal(error) : error;
        } finally {
            signal.removeEventListener("abort", abort);
        }
        return opened;
    }

    /** Resolves when it is given to the browser and that does not hold much. Rejects `WireClosed`. */
    async send(message: Bytes): Promise<void> {
        if (this.reason !== null) throw new WireClosed(this.reason);
        this.socket.send(message);
        while (this.reason === null && this.socket.bufferedAmount > OUTBOX_BYTES) await this.whileFull();
    }

    /** The next message of the other side. Rejects `WireClosed`, after all that has arrived, or `ProtocolError`. */
    async receive(): Promise<Bytes> {
        for (;;) {
            const message = await this.next();
            if (typeof message !== "string") return message;
            const notice = parseNotice(message);
            if (notice.event !== "renewed") throw new ProtocolError(UNEXPECTED);
            this.renewIn(notice.tokenSeconds);
        }
    }

    /** Idempotent. */
    close(): void {
        this.ended(0, "closed");
    }

    private whileFull(): Promise<void> {
        return new Promise((resolve) => {
            const timer = setTimeout(resolve, LOOK);
            this.look = () => {
                clearTimeout(timer);
                resolve();
            };
        });
    }

    private async join(join: string, timing: Timing): Promise<void> {
        const joining = async () => {
            await new Promise<void>((resolve, reject) => {
                this.socket.onopen = () => resolve();
                void this.closed.then((reason) => reject(new WireClosed(reason)));
            });
            this.socket.send(join);
            await this.notice("waiting");
        };
        await limited(joining(), "relay_open", timing.relayOpen);
        const paired = await limited(this.notice("paired"), "relay_wait", timing.relayWait);
        this.renewIn((paired as Paired).tokenSeconds);
    }

    private async notice(event: Notice["event"]): Promise<Notice> {
        const text = await this.next();
        const notice = typeof text === "string" ? parseNotice(text) : null;
        if (notice?.event !== event) throw new ProtocolError(UNEXPECTED);
        return notice;
    }

    private refusal(closed: WireClosed): DoorstepError {
        if (this.code === END.unauthorized || this.code === END.forbidden)
            return new Unauthorized(closed.message);
        return new ConnectFailed(
            this.code === 1006 ? `no relay at ${this.url}` : closed.message,
            "relay_wait",
        );
    }

    private async next(): Promise<string | Bytes> {
        for (;;) {
            const message = this.inbox.shift();
            if (message !== undefined) {
                this.inboxBytes -= message.length;
                return message;
            }
            if (this.reason !== null) throw new WireClosed(this.reason);
            await new Promise<void>((resolve) => {
                this.reader = resolve;
            });
        }
    }

    private arrived(data: unknown): void {
        const message = data instanceof ArrayBuffer ? new Uint8Array(data) : String(data);
        this.inbox.push(message);
        this.inboxBytes += message.length;
        if (this.inboxBytes > INBOX_BYTES) this.ended(0, "more arrives through the relay than is read");
        this.wake();
    }

    private ended(code: number, reason: string): void {
        if (this.reason !== null) return;
        this.reason = reason;
        this.code = code;
        clearTimeout(this.renewal);
        this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
        this.socket.close();
        this.end(reason);
        this.wake();
    }

    private wake(): void {
        this.reader?.();
        this.reader = null;
        this.look?.();
        this.look = null;
    }

    /** Tell the relay the next access token before this one ends. */
    private renewIn(seconds: number): void {
        clearTimeout(this.renewal);
        if (this.reason !== null) return;
        this.renewal = setTimeout(() => void this.renew(), Math.max(seconds * RENEW, AGAIN / 5) * 1000);
    }

    private async renew(): Promise<void> {
        try {
            const token = await this.token();
            if (this.reason === null) this.socket.send(dump({ event: "token", token }));
        } catch (error) {
            console.debug("no access token for the relay yet:", (error as Error).message);
            this.renewIn(AGAIN / RENEW);
        }
    }
}

const UNEXPECTED = "the relay said something else than it should";

function inWords(code: number, reason: string): string {
    if (code === END.peerLeft || code === 1000) return "the peer closed the connection";
    if (code === 1001 || code === 1012) return "the relay stops";
    if (code === 1005 || code === 1006) return "the connection to the relay was lost";
    return `the relay ended it: ${reason || code}`;
}

/** Rejects `DeadlineExceeded` after so many seconds. */
export async function limited<T>(work: Promise<T>, wait: string, seconds: number): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    work.catch(() => undefined); // told below, or too late to matter
    const limit = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new DeadlineExceeded(wait, seconds)), seconds * 1000);
    });
    try {
        return await Promise.race([work, limit]);
    } finally {
        clearTimeout(timer);
    }
}
