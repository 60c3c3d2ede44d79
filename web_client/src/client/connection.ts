// Client: the connection to one agent: one session, kept in touch over whatever wires there are, until it ends.

import {
    AgentUnreachable,
    ConnectFailed,
    type DoorstepError,
    type PeerNotTrusted,
    SessionClosed,
    SignalingLost,
} from "../protocol/errors.ts";
import { Observable } from "../runtime/observable.ts";
import { Session } from "../runtime/session.ts";
import { WirePool } from "../transport/pool.ts";
import type { Road } from "../transport/road.ts";
import type { Wire } from "../transport/wire.ts";
import type { ConnectorOptions, Status } from "./connector.ts";
import { Keeper } from "./keeper.ts";
import { Progress } from "./progress.ts";
import { type Force, Roads } from "./roads.ts";
import type { Trust } from "./trust.ts";

export type { Knocking, PeerLike, Status } from "./connector.ts";

type Shared = "agentId" | "agents" | "signaling" | "iceServers" | "moreServers" | "timing" | "makePeer";

export interface ConnectionOptions extends Pick<ConnectorOptions, Shared> {
    /** Without it this is a plain client: it proves nothing and believes every agent. */
    readonly makeTrust?: (sessionId: string) => Trust;
    /** Other ways than WebRTC, in order of preference. */
    readonly roads?: readonly Road[];
    /** Asked at the beginning of every session, and by `reroute`. */
    readonly force?: () => Force | null;
}

/** What a session goes by, from its first knock to its end. */
interface Ways {
    readonly pool: WirePool;
    readonly roads: Roads;
    readonly force: Force | null;
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
    private ways: Ways | null = null;
    private readonly progress = new Progress(this.status);
    private report: (status: Status) => void = () => undefined;
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
        else if (!this.ways) void this.begin();
    }

    /** The page woke, the network changed or the machine is back: look at once whether the wire still answers. */
    hurry(why: string): void {
        if (!this.open) return;
        const error = this.error.value;
        const curable = [AgentUnreachable, ConnectFailed, SignalingLost, SessionClosed];
        this.ways?.roads.hurry();
        this.ways?.pool.hurry();
        if (this.session.value) this.keeper?.hurry(why);
        else if (!this.ways && (error === null || curable.some((kind) => error instanceof kind)))
            this.connect();
    }

    /** Other ways are wanted: the session goes over to them, if they lead anywhere; until then it stays where it is. */
    reroute(): void {
        const { session, ways: last } = this;
        if (!last) return;
        if (!session.value) {
            this.close();
            this.connect();
            return;
        }
        void last.pool.close();
        const ways = this.makeWays(last.pool.wire.value);
        this.ways = ways;
        this.reach(ways).catch((error: Error) => console.info("not rerouted:", error.message));
    }

    /** End the session and release everything; `connect()` may follow. Idempotent. */
    close(reason = "closed by this page"): void {
        this.open = false;
        clearTimeout(this.again);
        const session = this.session.value;
        this.forget();
        session?.close(reason);
        this.error.set(null);
        if (this.status.value.state !== "idle")
            this.status.set({ ...this.status.value, state: "idle", reason });
    }

    /** The page goes away for good: tell the machine before this returns. */
    leave(): void {
        this.session.value?.depart();
        this.close();
    }

    /** Why the session is not on WebRTC; "" where it is. */
    get relayReason(): string {
        const { pool, force } = this.ways ?? {};
        if (force && force !== "direct" && force !== "turn") return "forced";
        return pool?.reason ?? "";
    }

    /** A new session, from the first knock to the first wire. */
    private async begin(): Promise<void> {
        this.error.set(null);
        if (this.used) {
            this.sessionId = randomId();
            this.trusting = this.options.makeTrust?.(this.sessionId);
        }
        this.used = false;
        const ways = this.makeWays();
        this.ways = ways;
        try {
            await this.reach(ways);
        } catch (error) {
            if (this.ways !== ways || this.session.value) return;
            this.forget();
            this.failed(error as DoorstepError);
        }
    }

    private makeWays(present: Wire | null = null): Ways {
        const { roads = [], force: forced } = this.options;
        const force = forced?.() ?? null;
        const every = new Roads({
            ...this.options,
            sessionId: this.sessionId,
            trust: this.trusting,
            roads,
            force,
            onStatus: (status) => this.report(status),
            hasAnotherWire: () => this.session.value?.state.value === "open",
            onDistrust: (error) => this.distrust(error),
        });
        const pool: WirePool = new WirePool(
            every.openers,
            (wire) => this.carry(pool, wire),
            this.options.timing,
            present,
        );
        return { pool, roads: every, force };
    }

    private async reach({ pool }: Ways): Promise<void> {
        this.progress.begin();
        this.report = this.progress.reporter();
        await pool.open();
    }

    private async carry(pool: WirePool, wire: Wire): Promise<void> {
        if (this.session.value) await this.session.value.carry(wire);
        else await this.start(pool, wire);
        if (this.ways?.pool === pool) this.progress.carried(wire.kind);
    }

    private async start(pool: WirePool, wire: Wire): Promise<void> {
        const session = new Session(this.sessionId, this.options.timing);
        this.used = true;
        await session.start(wire);
        if (this.ways?.pool !== pool) {
            session.close("no longer wanted");
            throw new SessionClosed("no longer wanted");
        }
        this.adopt(session, this.ways);
    }

    private adopt(session: Session, ways: Ways): void {
        const since = performance.now();
        this.keeper = new Keeper(session, {
            reconnect: () => this.reach(this.ways ?? ways),
            hurry: () => this.ways?.roads.hurry(),
            timing: this.options.timing,
        });
        this.session.set(session);
        this.keeper.start();
        void session.closed.then((reason) => this.ended(session, reason, (performance.now() - since) / 1000));
    }

    /** The session has ended. If the agent let it go, or lost it, there is another to be had. */
    private ended(session: Session, reason: string, lived: number): void {
        if (this.session.value !== session) return; // we closed it
        const fatal = this.keeper?.fatal ?? null;
        this.forget();
        if (fatal || session.ending === "kept" || session.ending === "broken") {
            this.failed(fatal ?? new SessionClosed(reason));
            return;
        }
        const { retryPause } = this.options.timing;
        this.brief = lived < retryPause ? this.brief + 1 : 0;
        if (this.brief > 1) {
            this.status.set({ state: "retrying", attempt: 0, reason });
            this.again = setTimeout(() => this.connect(), retryPause * 1000);
        } else this.connect();
    }

    /**
     * Who is not trusted on one road ends a session that runs on another: which one is the agent? That we were told not to be
     * trusted says nothing of the session: anybody may have told us.
     */
    private distrust(error: PeerNotTrusted): void {
        const session = this.session.value;
        if (!session || error.told) return;
        this.forget();
        session.close(error.message);
        this.failed(error);
    }

    private failed(error: DoorstepError): void {
        this.error.set(error);
        const { state, attempt } = this.status.value;
        if (state !== "failed") this.status.set({ state: "failed", attempt, reason: error.message });
    }

    private forget(): void {
        this.progress.end();
        void this.ways?.pool.close();
        this.ways = null;
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
