// Transport: the STUN and TURN servers that the back end has for its users (docs/wire.md §10); mirrors transport/ice_servers.py.

import { ICE_SERVERS } from "../protocol/limits.ts";
import type { IceServer } from "../protocol/signaling.ts";
import type { Timing } from "../protocol/timing.ts";
import type { Token } from "./relay_socket.ts";

/** The part of a credential's life after which it is asked for again. */
const RENEW = 0.5;
/** Seconds until they are asked for again: after a failure; where the back end has none; at the least. */
const AGAIN = 30;
const NONE = 3600;
const SHORTEST = 10;
const USABLE = /^(stuns?|turns?):\S+$/i;

/** A time on two clocks, since one may stand still while the machine sleeps and the other may be set. */
interface Moment {
    readonly steady: number;
    readonly calendar: number;
}

/** Asks `{relay}/ice-servers` as the signed-in user. Failing to get any is no error: others may do. */
export class IceServers {
    private readonly url: string;
    private readonly token: Token;
    private readonly timing: Timing;
    private given: readonly IceServer[] = [];
    private ends: Moment = later(0);
    private renewAt: Moment = later(0);
    private asking: Promise<void> | null = null;

    /** `relay` is what `relayUrl` returns. */
    constructor(relay: string, token: Token, timing: Timing) {
        this.url = `${relay.replace(/^ws/, "http")}/ice-servers`;
        this.token = token;
        this.timing = timing;
    }

    /** What is known, after a wait of at most `timing.iceServers` for what is being asked. */
    async soon(): Promise<readonly IceServer[]> {
        if (isPast(this.renewAt)) this.asking ??= this.ask().finally(() => (this.asking = null));
        if (this.asking && isPast(this.ends)) {
            let timer: ReturnType<typeof setTimeout> | undefined;
            const limit = new Promise<void>((resolve) => {
                timer = setTimeout(resolve, this.timing.iceServers * 1000);
            });
            await Promise.race([this.asking, limit]);
            clearTimeout(timer);
        }
        return isPast(this.ends) ? [] : this.given;
    }

    private async ask(): Promise<void> {
        try {
            const headers = { authorization: `Bearer ${await this.token()}` };
            const signal = AbortSignal.timeout(this.timing.relayOpen * 1000);
            const answer = await fetch(this.url, { headers, signal, cache: "no-store" });
            if ([404, 405, 501].includes(answer.status)) {
                this.renewAt = later(NONE);
                return;
            }
            if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
            this.take((await answer.json()) as Record<string, unknown>);
        } catch (error) {
            console.info("no ICE servers from the back end:", (error as Error).message);
            this.renewAt = later(AGAIN);
        }
    }

    private take({ iceServers, expiresIn }: Record<string, unknown>): void {
        if (!Array.isArray(iceServers) || typeof expiresIn !== "number")
            throw new Error("the answer is none");
        const life = Math.max(expiresIn, SHORTEST);
        this.given = iceServers.flatMap(usable).slice(0, ICE_SERVERS);
        this.ends = later(life);
        this.renewAt = later(life * RENEW);
    }
}

/** One that nobody can ask must not spoil the others. */
function usable(offered: unknown): IceServer[] {
    const { urls, username, credential } = (offered ?? {}) as Record<string, unknown>;
    const list = (Array.isArray(urls) ? urls : [urls]).filter(
        (url): url is string => typeof url === "string" && USABLE.test(url),
    );
    const login =
        typeof username === "string" && typeof credential === "string" ? { username, credential } : {};
    const kept = "username" in login ? list : list.filter((url) => /^stun/i.test(url));
    return kept.length > 0 ? [{ urls: kept, ...login }] : [];
}

function later(seconds: number): Moment {
    return { steady: performance.now() + seconds * 1000, calendar: Date.now() + seconds * 1000 };
}

function isPast({ steady, calendar }: Moment): boolean {
    return steady <= performance.now() || calendar <= Date.now();
}
