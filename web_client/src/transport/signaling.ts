// Transport: what a signaling service is for the page, whoever provides it (Supabase Realtime, the hub, a bus in a test).

export type ChannelState = "joined" | "lost" | "left";

/** Presence key → the newest meta of that key. */
export type Presence = ReadonlyMap<string, Readonly<Record<string, unknown>>>;

/** A channel as it is joined, and joined again after every loss. */
export interface ChannelSpec {
    readonly topic: string;
    /** Each broadcast of others, never one's own. */
    readonly onMessage: (event: string, payload: unknown) => void;
    /** All present members after each (debounced) change. Left out = presence is not asked for. */
    readonly onPresence?: (presence: Presence) => void;
    /** `reason`: why it was lost. */
    readonly onState?: (state: ChannelState, reason?: string) => void;
}

export interface Channel {
    readonly topic: string;
    readonly state: ChannelState;
    /** Broadcast; resolves at the server's acknowledgement. Throws `SignalingLost`; nothing is kept for later. */
    send(event: string, payload: Record<string, unknown>): Promise<void>;
    /** Idempotent; the same topic can be joined again at once. */
    leave(): Promise<void>;
}

export interface Signaling {
    /** Throws `Unauthorized` when the policies refuse (final), `SignalingLost` when not joined within `timeout` seconds. */
    join(spec: ChannelSpec, timeout: number): Promise<Channel>;
    /** What is lost is joined now, not after a pause: somebody needs it. */
    hurry?(): void;
}
