// Client: keeps one session in touch: a new wire when it has none, or when the one it has no longer answers.

import {
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    DoorstepError,
    PeerNotTrusted,
    SessionClosed,
    SignalingLost,
    WireClosed,
} from "../protocol/errors.ts";
import type { Timing } from "../protocol/timing.ts";
import type { Unwatch } from "../runtime/observable.ts";
import type { Session } from "../runtime/session.ts";

export interface KeeperOptions {
    /** Take the session over to a new wire, while the last may still work; rejects with a `DoorstepError`. */
    readonly reconnect: () => Promise<void>;
    /** What is under way shall not pause. */
    readonly hurry: () => void;
    readonly timing: Timing;
}

/** The lost link and the absent peer: trying again may help. */
const CURABLE = [
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    SessionClosed,
    SignalingLost,
    WireClosed,
];

export class Keeper {
    /** What the session was ended for, because waiting cures it not. */
    fatal: DoorstepError | null = null;

    private readonly session: Session;
    private readonly options: KeeperOptions;
    private over = false;
    private wanted = false;
    private busy = false;
    private probing = false;
    private wake: () => void = () => undefined;
    private unwatch: Unwatch | null = null;

    constructor(session: Session, options: KeeperOptions) {
        this.session = session;
        this.options = options;
    }

    /** Begin; a session that cannot resume is left alone. */
    start(): void {
        if (!this.session.resumable) return;
        this.unwatch = this.session.state.watch((state) => state === "away" && this.wake());
        void this.keep();
    }

    /** Stop trying. What `reconnect` is at is its owner's to end. */
    stop(): void {
        this.over = true;
        this.unwatch?.();
        this.wake();
    }

    /** The page woke or the network changed: a wire that does not answer soon is replaced, beside it if it lives. */
    hurry(why: string): void {
        if (this.over || this.probing || !this.session.resumable) return;
        if (this.session.state.value === "away") {
            if (this.busy) this.options.hurry();
            else this.wake();
            return;
        }
        this.probing = true;
        void this.session.probe().then((alive) => {
            this.probing = false;
            if (alive || this.over) return;
            console.info(`${why}: the wire does not answer, another one is made`);
            this.wanted = true;
            this.wake();
        });
    }

    private async keep(): Promise<void> {
        for (;;) {
            while (!this.over && !this.wanted && this.session.state.value !== "away") await this.news();
            if (this.over) return;
            this.wanted = false;
            await this.try();
        }
    }

    private async try(): Promise<void> {
        this.busy = true;
        try {
            await this.options.reconnect();
        } catch (error) {
            if (this.over) return;
            if (!CURABLE.some((kind) => error instanceof kind)) {
                this.judge(error);
                return;
            }
            console.info("not yet reconnected:", (error as Error).message);
            this.busy = false;
            await this.pause(this.options.timing.retryPause);
        } finally {
            this.busy = false;
        }
    }

    /** A session that works goes on, unless somebody was found out. */
    private judge(error: unknown): void {
        const fraud = error instanceof PeerNotTrusted && !error.told;
        if (fraud || this.session.state.value === "away") this.give(error);
        else console.warn("the session stays where it is:", (error as Error).message);
    }

    /** Signed out, no longer ours, not trusted: waiting cures nothing. */
    private give(error: unknown): void {
        const message = error instanceof Error ? error.message : String(error);
        this.fatal = error instanceof DoorstepError ? error : new SessionClosed(message);
        this.session.close(message);
        this.stop();
    }

    private news(): Promise<void> {
        return new Promise((resolve) => {
            this.wake = resolve;
        });
    }

    private async pause(seconds: number): Promise<void> {
        let timer: ReturnType<typeof setTimeout> | undefined;
        await new Promise<void>((resolve) => {
            this.wake = resolve;
            timer = setTimeout(resolve, seconds * 1000);
        });
        clearTimeout(timer);
    }
}
