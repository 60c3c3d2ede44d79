// Transport: signaling over supabase-js. Rebuilds every channel from its spec after a loss, with a fresh token first.
//
// Left to itself supabase-js retries a refused join for ever, never rejoins a channel the server has closed and, after
// a long sleep, rejoins with an expired token; so each loss ends the old channel here and a supervisor makes a new one.

import {
    type RealtimeChannel,
    RealtimeClient as RealtimeSocket,
    type SupabaseClient,
} from "@supabase/supabase-js";
import { type DoorstepError, SignalingLost, Unauthorized } from "../protocol/errors.ts";
import type { Timing } from "../protocol/timing.ts";
import type { OwnSignaling } from "./broadcast_link.ts";
import { PresenceDebounce } from "./presence.ts";
import type { Channel, ChannelSpec, ChannelState, Signaling } from "./signaling.ts";

/** The part of supabase-js that is used here. */
export type RealtimeClient = Pick<SupabaseClient, "channel" | "removeChannel" | "realtime">;

export class RealtimeSignaling implements Signaling {
    private readonly client: RealtimeClient;
    private readonly timing: Timing;
    private readonly channels = new Set<SupervisedChannel>();
    /** Leaves under way: a topic is joined again only when the server has let go of it. */
    private readonly leaving = new Map<string, Promise<unknown>>();
    private asking: ReturnType<typeof setTimeout> | undefined;

    constructor(client: RealtimeClient, timing: Timing) {
        this.client = client;
        this.timing = timing;
    }

    async join(spec: ChannelSpec, timeout: number): Promise<Channel> {
        const channel = new SupervisedChannel(this.client, spec, this.timing, this.leaving);
        this.channels.add(channel);
        channel.left.finally(() => this.channels.delete(channel));
        try {
            await channel.join(timeout);
        } catch (error) {
            void channel.leave();
            throw error;
        }
        return channel;
    }

    /** The page woke up or the network changed: do not wait for the next try, nor for the socket's own heartbeats. */
    hurry(): void {
        for (const channel of this.channels) channel.hurry();
        this.ask();
    }

    /** A socket that brings no answer within `timing.silence` is given up; its own heartbeats would take 50 s to see it. */
    private ask(): void {
        const { realtime } = this.client;
        if (this.asking !== undefined || !realtime.isConnected()) return;
        if (realtime.pendingHeartbeatRef === null) void realtime.sendHeartbeat();
        const asked = realtime.pendingHeartbeatRef;
        this.asking = setTimeout(() => {
            this.asking = undefined;
            // A second heartbeat while the first is unanswered is how the client is told.
            if (asked !== null && realtime.pendingHeartbeatRef === asked) void realtime.sendHeartbeat();
        }, this.timing.silence * 1000);
    }

    /** The topics joined or being joined. */
    topics(): string[] {
        return [...this.channels].map((channel) => channel.topic);
    }

    async close(): Promise<void> {
        clearTimeout(this.asking);
        await Promise.all([...this.channels].map((channel) => channel.leave()));
    }
}

/** Signaling on a socket of its own, for a join that may be refused: the server freezes the whole socket for 5 s over one. */
export function separateSignaling(
    url: string,
    key: string,
    token: () => Promise<string>,
    timing: Timing,
): OwnSignaling {
    const endpoint = `${url.replace(/\/+$/, "").replace(/^http/, "ws")}/realtime/v1`;
    const realtime = new RealtimeSocket(endpoint, { params: { apikey: key }, accessToken: token });
    const signaling = new RealtimeSignaling(
        {
            realtime,
            channel: (name, options) => realtime.channel(name, options),
            removeChannel: (channel) => realtime.removeChannel(channel),
        },
        timing,
    );
    return {
        join: (spec, timeout) => signaling.join(spec, timeout),
        close: async () => {
            await signaling.close();
            await realtime.disconnect();
        },
    };
}

class SupervisedChannel implements Channel {
    /** Resolves when left. */
    readonly left: Promise<void>;
    /** Why it is not joined. */
    private reason = "not yet joined";
    private current: ChannelState = "lost";
    private channel: RealtimeChannel | null = null;
    private timer: ReturnType<typeof setTimeout> | undefined;
    private tries = 0;
    /** Sends whose acknowledgement cannot come any more when the channel is lost. */
    private readonly unacknowledged = new Set<(error: Error) => void>();
    private readonly presence: PresenceDebounce | null;
    private readonly client: RealtimeClient;
    private readonly spec: ChannelSpec;
    private readonly timing: Timing;
    private readonly leaving: Map<string, Promise<unknown>>;
    private done: () => void = () => undefined;

    constructor(
        client: RealtimeClient,
        spec: ChannelSpec,
        timing: Timing,
        leaving: Map<string, Promise<unknown>>,
    ) {
        this.client = client;
        this.spec = spec;
        this.timing = timing;
        this.leaving = leaving;
        this.presence = spec.onPresence
            ? new PresenceDebounce(timing.presenceDebounce, spec.onPresence)
            : null;
        this.left = new Promise((resolve) => {
            this.done = resolve;
        });
    }

    get topic(): string {
        return this.spec.topic;
    }

    get state(): ChannelState {
        return this.current;
    }

    /** One try. After success every loss is repaired until `leave()`. */
    async join(timeout: number): Promise<void> {
        await this.leaving.get(this.topic);
        await this.client.realtime.setAuth();
        if (this.current === "left") throw new SignalingLost("the channel was left");
        const channel = this.client.channel(this.topic, {
            config: {
                private: true,
                broadcast: { ack: true, self: false },
                ...(this.presence ? { presence: { enabled: true } } : {}),
            },
        });
        this.channel = channel;
        channel.on("broadcast", { event: "*" }, ({ event, payload }) => this.spec.onMessage(event, payload));
        if (this.presence) channel.on("presence", { event: "sync" }, () => this.present(channel));
        let complaint: Error | undefined;
        channel.on("system", {}, ({ status, message }: { status?: string; message?: string }) => {
            if (status === "error") complaint = new Error(message);
        });
        await new Promise<void>((resolve, reject) => {
            channel.subscribe((status, error) => {
                if (this.channel !== channel) return; // an echo of a channel that was given up
                if (status === "SUBSCRIBED") {
                    this.joined();
                    resolve();
                    return;
                }
                const reason = failure(status, complaint ?? error);
                if (this.current === "joined") this.lose(reason);
                else this.drop();
                reject(reason);
            }, timeout * 1000);
        });
    }

    async send(event: string, payload: Record<string, unknown>): Promise<void> {
        const { channel } = this;
        if (this.current !== "joined" || !channel)
            throw new SignalingLost(`${this.topic} is not joined (${this.reason})`);
        let lost: (error: Error) => void = () => undefined;
        const result = await new Promise<string>((resolve, reject) => {
            lost = reject;
            this.unacknowledged.add(lost);
            channel.send({ type: "broadcast", event, payload }).then(resolve, reject);
        }).finally(() => this.unacknowledged.delete(lost));
        if (result !== "ok") throw new SignalingLost(`${event} was not acknowledged (${result})`);
    }

    async leave(): Promise<void> {
        if (this.current === "left") return;
        clearTimeout(this.timer);
        this.presence?.close();
        this.drop();
        this.move("left");
        this.done();
        await this.leaving.get(this.topic);
    }

    hurry(): void {
        if (this.timer === undefined) return;
        clearTimeout(this.timer);
        this.timer = undefined;
        this.tries = 0;
        void this.again();
    }

    private joined(): void {
        this.tries = 0;
        this.move("joined");
    }

    private present(channel: RealtimeChannel): void {
        if (this.channel === channel) this.presence?.state(channel.presenceState());
    }

    private lose(reason: Error): void {
        this.drop();
        this.reason = reason.message;
        this.move("lost", reason.message);
        if (reason instanceof Unauthorized) return; // the policies changed their mind: asking again does not help
        this.schedule();
    }

    /** After 1, 2, 4 … 60 s with full jitter; the first try after a loss is at once. */
    private schedule(): void {
        const { reconnectFirst, reconnectCap } = this.timing;
        const most = this.tries === 0 ? 0 : Math.min(reconnectFirst * 2 ** (this.tries - 1), reconnectCap);
        this.tries += 1;
        this.timer = setTimeout(() => void this.again(), Math.random() * most * 1000);
    }

    private async again(): Promise<void> {
        this.timer = undefined;
        try {
            await this.join(this.timing.join);
        } catch (error) {
            if (this.state !== "left" && this.timer === undefined && !(error instanceof Unauthorized))
                this.schedule();
        }
    }

    /** Give up the present channel; the topic is free when the server has let go of it. */
    private drop(): void {
        const { channel, topic } = this;
        if (!channel) return;
        this.channel = null;
        for (const lost of this.unacknowledged) lost(new SignalingLost(`${topic} was lost`));
        const gone = this.client.removeChannel(channel).catch(() => "error");
        this.leaving.set(topic, gone);
        void gone.then(() => {
            if (this.leaving.get(topic) === gone) this.leaving.delete(topic);
        });
    }

    private move(state: ChannelState, reason = ""): void {
        if (this.current === state) return;
        this.current = state;
        this.spec.onState?.(state, reason);
    }
}

function failure(status: string, error: Error | undefined): DoorstepError {
    const reason = error?.message ?? status;
    return /Unauthorized|PrivateOnly/.test(reason) ? new Unauthorized(reason) : new SignalingLost(reason);
}
