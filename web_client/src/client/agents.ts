// Client: the signed-in user's agents: their rows, who of them is present, and the channel on which they are knocked.

import type { SupabaseClient } from "@supabase/supabase-js";
import { NotSignedIn, SignalingLost } from "../protocol/errors.ts";
import { agentsTopic } from "../protocol/ids.ts";
import type { Timing } from "../protocol/timing.ts";
import { Observable, type Unwatch } from "../runtime/observable.ts";
import type { Channel, ChannelState, Presence, Signaling } from "../transport/signaling.ts";

export interface AgentRow {
    readonly id: string;
    readonly name: string;
    readonly platform: string | null;
    readonly version: string | null;
    readonly last_seen: string | null;
    readonly public_key?: string | null;
}

export interface Agent extends AgentRow {
    /** null until presence is known. */
    readonly online: boolean | null;
}

type Listener = (event: string, payload: unknown) => void;

const COLUMNS = "id,name,platform,version,last_seen,public_key";

export class Agents {
    /** null until the rows are loaded. */
    readonly list = new Observable<readonly Agent[] | null>(null);
    /** The last loading or joining error; null when all is well. */
    readonly trouble = new Observable<unknown>(null);
    readonly channelState = new Observable<ChannelState>("lost");

    private rows: readonly AgentRow[] | null = null;
    private presence: Presence | null = null;
    private channel: Channel | null = null;
    private joining: Promise<Channel> | null = null;
    private readonly listeners = new Set<Listener>();
    private readonly database: Pick<SupabaseClient, "from">;
    private readonly signaling: Signaling;
    private readonly topic: string;
    private readonly timing: Timing;
    private closed = false;

    constructor(
        database: Pick<SupabaseClient, "from">,
        signaling: Signaling,
        userId: string,
        timing: Timing,
    ) {
        this.database = database;
        this.signaling = signaling;
        this.topic = agentsTopic(userId);
        this.timing = timing;
    }

    /** Load and join; both again until they work, or `close()`. */
    async start(): Promise<void> {
        await Promise.all([this.load(), this.joinUntilItWorks()]);
    }

    async load(): Promise<void> {
        const { data, error } = await this.database.from("agents").select(COLUMNS).order("name");
        if (this.closed) return;
        if (error) {
            const expired = error.code === "PGRST301" || error.code === "PGRST303";
            this.trouble.set(expired ? new NotSignedIn("Sign in again.") : new SignalingLost(error.message));
            return;
        }
        this.rows = data as AgentRow[];
        if (this.channel) this.trouble.set(null);
        this.show();
    }

    /** Resolves when the channel is joined; at most `timing.join`. Throws as `Signaling.join`. */
    async joined(): Promise<void> {
        if (this.channelState.value === "joined") return;
        if (!this.channel) {
            await this.join();
            return;
        }
        await new Promise<void>((resolve, reject) => {
            const timer = setTimeout(() => {
                unwatch();
                reject(new SignalingLost("the back end cannot be reached"));
            }, this.timing.join * 1000);
            const unwatch = this.channelState.watch((state) => {
                if (state !== "joined") return;
                clearTimeout(timer);
                unwatch();
                resolve();
            });
            this.signaling.hurry?.();
        });
    }

    /** Broadcast on the channel of all agents. Throws `SignalingLost`. */
    async send(event: string, payload: Record<string, unknown>): Promise<void> {
        if (!this.channel) throw new SignalingLost("the back end cannot be reached");
        await this.channel.send(event, payload);
    }

    listen(listener: Listener): Unwatch {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    async close(): Promise<void> {
        this.closed = true;
        this.listeners.clear();
        await this.channel?.leave();
    }

    private async joinUntilItWorks(): Promise<void> {
        for (let tries = 0; !this.closed && !this.channel; tries++) {
            try {
                await this.join();
            } catch (error) {
                this.trouble.set(error);
                const pause = Math.min(this.timing.reconnectFirst * 2 ** tries, this.timing.reconnectCap);
                await new Promise((resolve) => setTimeout(resolve, pause * 1000));
            }
        }
    }

    /** One join for whoever asks at the same time. */
    private join(): Promise<Channel> {
        this.joining ??= this.signaling
            .join(
                {
                    topic: this.topic,
                    onMessage: (event, payload) => {
                        for (const listener of [...this.listeners]) listener(event, payload);
                    },
                    onPresence: (presence) => this.present(presence),
                    onState: (state) => this.channelState.set(state),
                },
                this.timing.join,
            )
            .then((channel) => {
                this.channel = channel;
                this.trouble.set(null);
                if (this.closed) void channel.leave();
                return channel;
            })
            .finally(() => {
                this.joining = null;
            });
        return this.joining;
    }

    private present(presence: Presence): void {
        this.presence = presence;
        this.show();
        const keys = new Map(this.rows?.map((row) => [row.id, row.public_key ?? null]));
        const isNews = ([id, meta]: [string, Readonly<Record<string, unknown>>]) =>
            !keys.has(id) || (meta.public_key ?? null) !== keys.get(id);
        if (this.rows && [...presence].some(isNews)) void this.load();
    }

    private show(): void {
        const { rows, presence } = this;
        if (!rows) return;
        const agents = rows.map((row) => {
            const meta = presence?.get(row.id);
            const name = typeof meta?.name === "string" ? meta.name : row.name;
            return { ...row, name, online: presence ? meta !== undefined : null };
        });
        agents.sort((a, b) => Number(b.online) - Number(a.online) || a.name.localeCompare(b.name));
        this.list.set(agents);
    }
}
