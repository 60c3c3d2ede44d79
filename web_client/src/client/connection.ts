// Client: the connection to one agent: one session, kept in touch over whatever wires there are, until it ends.

import {
    AgentUnreachable,
    ConnectFailed,
    type DoorstepError,
    SessionClosed,
    SignalingLost,
} from "../protocol/errors.ts";
import { Observable } from "../runtime/observable.ts";
import { Session } from "../runtime/session.ts";
import type { Wire } from "../transport/wire.ts";
import { type Carry, Connector, type ConnectorOptions, type Status } from "./connector.ts";
import { Keeper } from "./keeper.ts";
import type { Trust } from "./trust.ts";

export type { Knocking, PeerLike, Status } from "./connector.ts";

type Shared = "agentId" | "agents" | "signaling" | "iceServers" | "timing" | "makePeer";

export interface ConnectionOptions extends Pick<ConnectorOptions, Shared> {
    /** Without it this is a plain client: it proves nothing and believes every agent. */
    readonly makeTrust?: (sessionId: string) => Trust;
}

const IDLE: Status = { state: "idle", attempt: 0, reason: "" };

export class Connection {
    readonly agentId: string;
    /** How connecting stands: at first, and again whenever another wire is made. */
    readonly status = new Observable<Status>(IDLE);
    /** The session, while there is one; it may be without a wire. */
    readonly session = new Observable<Session | null>(null);
    /** Why it ended for good; null while it is going on or up. */
    readonly error = new Observable<DoorstepError | null>(null);

    private readonly options: ConnectionOptions;
    /** A session's own; another session is another one to the agent. */
    private sessionId = randomId();
    private trusting: Trust | undefined;
    private used = false;
    private keeper: Keeper | null = null;
    private connector: Connector | null = null;
    private again: ReturnType<typeof setTimeout> | undefined;
    private open = false;
    /** Sessions in a row that ended as soon as they had begun. */
    private brief = 0;

    constructor(options: ConnectionOptions) {
        this.options = options;
        this.agentId = options.agentId;
        this.trusting = options.makeTrust?.(this.sessionId);
    }

    /** Whom the present session, or the next one, believes. */
    get trust(): Trust | undefined {
        return this.trusting;
    }

    /** Start connecting, or go on at once; nothing happens when a session is up. */
    connect(): void {
        this.open = true;
        clearTimeout(this.again);
        if (this.session.value) this.keeper?.hurry("asked for");
        else if (!this.connector) void this.begin();
    }

    /** The page woke, the network changed or the machine is back: look at once whether the wire still answers. */
    hurry(why: string): void {
        if (!this.open) return;
        const error = this.error.value;
        const curable = [AgentUnreachable, ConnectFailed, SignalingLost, SessionClosed];
        if (this.session.value) this.keeper?.hurry(why);
        else if (this.connector) this.connector.hurry();
        else if (error === null || curable.some((kind) => error instanceof kind)) this.connect();
    }

    /** End the session and release everything; `connect()` may follow. Idempotent. */
    close(reason = "closed by this page"): void {
        this.open = false;
        clearTimeout(this.again);
        const session = this.session.value;
        this.forget();
        session?.close(reason);
        this.connector?.cancel(reason);
        this.connector = null;
        this.error.set(null);
        if (this.status.value.state !== "idle")
            this.status.set({ ...this.status.value, state: "idle", reason });
    }

    /** A new session, from the first knock to the first wire. */
    private async begin(): Promise<void> {
        this.error.set(null);
        if (this.used) {
            this.sessionId = randomId();
            this.trusting = this.options.makeTrust?.(this.sessionId);
        }
        this.used = false;
        try {
            await this.road((wire) => this.start(wire));
        } catch (error) {
            if (this.open && !this.session.value) this.error.set(error as DoorstepError);
        }
    }

    private async start(wire: Wire): Promise<void> {
        const connector = this.connector;
        const session = new Session(this.sessionId, this.options.timing);
        this.used = true;
        await session.start(wire);
        if (this.connector !== connector || connector === null) {
            session.close("no longer wanted");
            throw new SessionClosed("no longer wanted");
        }
        this.adopt(session);
    }

    private adopt(session: Session): void {
        const since = performance.now();
        this.keeper = new Keeper(session, {
            reconnect: () => this.road((wire) => session.carry(wire)),
            hurry: () => this.connector?.hurry(),
            timing: this.options.timing,
        });
        this.session.set(session);
        this.keeper.start();
        void session.closed.then((reason) => this.ended(session, reason, (performance.now() - since) / 1000));
    }

    /** One connect over signaling, whose wire `carry` takes. */
    private async road(carry: Carry): Promise<void> {
        const { agentId, agents, signaling, iceServers, timing, makePeer } = this.options;
        const connector = new Connector({
            agentId,
            sessionId: this.sessionId,
            agents,
            signaling,
            iceServers,
            timing,
            trust: this.trusting,
            makePeer,
            carry,
            onStatus: (status) => this.connector === connector && this.status.set(status),
        });
        this.connector = connector;
        try {
            await connector.connect();
        } finally {
            if (this.connector === connector) this.connector = null;
        }
    }

    /** The session has ended. If the agent let it go, or lost it, there is another to be had. */
    private ended(session: Session, reason: string, lived: number): void {
        if (this.session.value !== session) return; // we closed it
        const fatal = this.keeper?.fatal ?? null;
        this.forget();
        this.connector?.cancel(reason);
        this.connector = null;
        if (fatal || session.ending === "kept" || session.ending === "broken") {
            this.error.set(fatal ?? new SessionClosed(reason));
            this.status.set({ state: "failed", attempt: this.status.value.attempt, reason });
            return;
        }
        const { retryPause } = this.options.timing;
        this.brief = lived < retryPause ? this.brief + 1 : 0;
        if (this.brief > 1) {
            this.status.set({ state: "retrying", attempt: 0, reason });
            this.again = setTimeout(() => this.connect(), retryPause * 1000);
        } else this.connect();
    }

    private forget(): void {
        this.keeper?.stop();
        this.keeper = null;
        this.session.set(null);
    }
}

/** `crypto.randomUUID` needs a secure context, which a page on a plain LAN address is not. */
function randomId(): string {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
        byte.toString(16).padStart(2, "0"),
    ).join("");
}
