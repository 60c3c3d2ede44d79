// Client: the ways to one agent for one session, as the pool wants them: WebRTC after a knock, and the roads that the agent
// takes at the same knock.

import {
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    PeerNotTrusted,
    SignalingLost,
    WireClosed,
} from "../protocol/errors.ts";
import type { IceServer } from "../protocol/signaling.ts";
import type { Carry, Opener } from "../transport/pool.ts";
import type { Meeting, Road } from "../transport/road.ts";
import { Connector, type ConnectorOptions } from "./connector.ts";

/** One kind of wire and no other, for support: WebRTC without TURN servers, WebRTC through one; the others are no WebRTC. */
export type Force = "direct" | "turn" | "relay" | "broadcast";

export interface RoadsOptions
    extends Pick<
        ConnectorOptions,
        | "agentId"
        | "sessionId"
        | "agents"
        | "signaling"
        | "iceServers"
        | "moreServers"
        | "timing"
        | "trust"
        | "makePeer"
        | "onStatus"
        | "hasAnotherWire"
    > {
    /** In order of preference, after WebRTC. */
    readonly roads: readonly Road[];
    readonly force: Force | null;
    /** Told of whoever is not trusted, on whatever road. */
    readonly onDistrust?: (error: PeerNotTrusted) => void;
}

/** Where we wait for the agent, and what it has said to that. */
interface Coming {
    /** When it last said that it comes: milliseconds, of `performance.now()`. */
    promised: number | null;
    /** Aborted with the reason when the agent will not come. */
    readonly vain: AbortController;
    /** Runs when nobody knocks any more. */
    lastCall?: ReturnType<typeof setTimeout>;
}

const UNWANTED = "no longer wanted";
/** Refusals that are about the agent's peer connection or its signaling, and not about us. */
const OF_WEBRTC: readonly string[] = ["connect-failed", "signaling-lost"];
const NOBODY = { sign: async () => new Uint8Array(), verify: async () => undefined };

export class Roads {
    /** In order of preference. */
    readonly openers: readonly Opener[];

    private readonly options: RoadsOptions;
    private readonly knocks: boolean;
    private connector: Connector | null = null;
    /** The roads on which we wait for the agent: it shall come too. */
    private readonly coming = new Map<string, Coming>();
    /** By kind: settled when it is not being opened any more. */
    private readonly opening = new Map<string, Promise<void>>();
    private running = 0;
    /** Aborted with the error that ends every road. */
    private over = new AbortController();

    constructor(options: RoadsOptions) {
        this.options = options;
        const { force, roads } = options;
        const wanted = force === null ? roads : roads.filter(({ kind }) => kind === force);
        this.knocks = force === null || force === "direct" || force === "turn";
        this.openers = [
            ...(this.knocks ? [this.opener("webrtc", (carry, signal) => this.connect(carry, signal))] : []),
            ...wanted.map((road) =>
                this.opener(road.kind, (carry, signal) => this.meet(road, carry, signal)),
            ),
        ];
    }

    /** The network is another one: no pause before the next attempt. */
    hurry(): void {
        this.connector?.hurry();
    }

    private opener(kind: string, open: Opener["open"]): Opener {
        return {
            kind,
            open: (carry, signal) => {
                const opened = this.together(open, carry, signal);
                this.opening.set(kind, opened);
                return opened;
            },
        };
    }

    /** Run one opener; what fails for all of them ends all of them. */
    private async together(open: Opener["open"], carry: Carry, signal: AbortSignal): Promise<void> {
        if (this.running === 0) this.over = new AbortController();
        const { over } = this;
        this.running += 1;
        try {
            await open(carry, AbortSignal.any([signal, over.signal]));
        } catch (error) {
            if (error instanceof PeerNotTrusted && !signal.aborted) this.options.onDistrust?.(error);
            throw over.signal.aborted ? over.signal.reason : error;
        } finally {
            this.running -= 1;
        }
    }

    /** Knock; with an offer if this is for WebRTC. */
    private async connect(carry: Carry, signal: AbortSignal, offers = true): Promise<void> {
        const { force, makePeer } = this.options;
        for (const coming of this.coming.values()) clearTimeout(coming.lastCall);
        const connector = new Connector({
            ...this.options,
            carry,
            offers,
            capabilities: () => [...this.coming.keys()],
            onReady: (capabilities) => this.ready(capabilities),
            makePeer: (servers, policy) =>
                makePeer(force === "direct" ? withoutTurn(servers) : servers, policy),
            policy: force === "turn" ? "relay" : "all",
        });
        const stop = () => connector.cancel(UNWANTED);
        signal.addEventListener("abort", stop, { once: true });
        this.connector = connector;
        try {
            if (signal.aborted) throw new ConnectFailed(UNWANTED);
            await connector.connect();
        } catch (error) {
            signal.removeEventListener("abort", stop);
            if (!signal.aborted && !isOfOneRoad(error)) this.over.abort(error);
            this.nobodyKnocks((error as Error).message);
            throw error;
        } finally {
            signal.removeEventListener("abort", stop);
            if (this.connector === connector) this.connector = null;
        }
    }

    /** The agent has answered the knock: who does not promise to come is not waited for. */
    private ready(capabilities: readonly string[]): void {
        for (const kind of capabilities) {
            const coming = this.coming.get(kind);
            if (!coming) continue;
            coming.promised = performance.now();
            clearTimeout(coming.lastCall);
        }
        for (const { promised, vain } of this.coming.values())
            if (promised === null) vain.abort(new ConnectFailed("the agent does not come there"));
    }

    /** Who has promised to come has `timing.promise` from then on; who has not is not waited for. */
    private nobodyKnocks(why: string): void {
        for (const coming of this.coming.values()) {
            const giveUp = () => coming.vain.abort(new ConnectFailed(why));
            clearTimeout(coming.lastCall);
            if (coming.promised === null) giveUp();
            else {
                const left = coming.promised + this.options.timing.promise * 1000 - performance.now();
                coming.lastCall = setTimeout(giveUp, Math.max(left, 0));
            }
        }
    }

    /** Come by a road; the knock that asks the agent to come too is WebRTC's, or our own if that is not wanted. */
    private async meet(road: Road, carry: Carry, signal: AbortSignal): Promise<void> {
        const [done, vain] = [new AbortController(), new AbortController()];
        const coming: Coming = { promised: null, vain };
        this.coming.set(road.kind, coming);
        const knocking = this.knocks
            ? Promise.resolve()
            : this.connect(carry, AbortSignal.any([signal, done.signal]), false);
        knocking.catch((error: unknown) => {
            if (!done.signal.aborted && !signal.aborted) this.over.abort(error);
        });
        const unneeded = AbortSignal.any([signal, vain.signal]);
        try {
            if (road.costly && this.knocks) await this.othersFirst(road, unneeded);
            const wire = await this.patiently(road, unneeded);
            clearTimeout(coming.lastCall);
            const unwanted = () => wire.close(UNWANTED);
            signal.addEventListener("abort", unwanted, { once: true });
            await carry(wire).finally(() => signal.removeEventListener("abort", unwanted));
        } catch (error) {
            if (error instanceof PeerNotTrusted && !signal.aborted) this.over.abort(error);
            throw vain.signal.aborted && !signal.aborted ? vain.signal.reason : error;
        } finally {
            clearTimeout(coming.lastCall);
            if (this.coming.get(road.kind) === coming) this.coming.delete(road.kind);
            done.abort();
            await knocking.catch(() => undefined);
        }
    }

    /** A road that costs is taken when the others have failed or are late. */
    private async othersFirst(road: Road, signal: AbortSignal): Promise<void> {
        const { broadcastPause, broadcastAfter } = this.options.timing;
        await pause(broadcastPause, signal);
        const others = [...this.opening].filter(([kind]) => kind !== "webrtc" && kind !== road.kind);
        const late = pause(broadcastAfter, signal);
        late.catch(() => undefined); // told by the race, or too late to matter
        await Promise.race([Promise.allSettled(others.map(([, opened]) => opened)), late]);
    }

    /** As long as somebody knocks the agent may still come. */
    private async patiently(road: Road, signal: AbortSignal) {
        const { sessionId, agentId, timing, trust } = this.options;
        const meeting: Meeting = { sessionId, agentId, prover: trust?.prover() ?? NOBODY };
        for (;;) {
            try {
                return await road.meet(meeting, signal);
            } catch (error) {
                const left = error instanceof WireClosed; // before it had proved itself, so it may come again
                const late =
                    (error instanceof ConnectFailed || error instanceof DeadlineExceeded) && error.wait;
                if (!(late || left) || !this.connector || signal.aborted) throw error;
                await pause(timing.reconnectFirst, signal); // the word of a relay is no pace to follow
            }
        }
    }
}

/** Rejects when it is not wanted any more. */
function pause(seconds: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, seconds * 1000);
        const stop = () => {
            clearTimeout(timer);
            reject(new ConnectFailed(UNWANTED));
        };
        if (signal.aborted) stop();
        signal.addEventListener("abort", stop, { once: true });
    });
}

/** The STUN servers among them. */
export function withoutTurn(servers: readonly IceServer[]): IceServer[] {
    return servers
        .map(({ urls }) => ({ urls: urls.filter((url) => !/^turns?:/i.test(url)) }))
        .filter(({ urls }) => urls.length > 0);
}

/** That there is no path says nothing of the other roads; nor does a lost signaling channel, once the agent has heard. */
function isOfOneRoad(error: unknown): boolean {
    if (error instanceof ConnectionRefused) return OF_WEBRTC.includes(error.reason);
    return [ConnectFailed, DeadlineExceeded, SignalingLost].some((kind) => error instanceof kind);
}
