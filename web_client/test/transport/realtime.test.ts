// Against a scripted supabase-js: what the real one does under loss and refusal is in tests/e2e and hard to provoke there.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SignalingLost, Unauthorized } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { PresenceDebounce } from "../../src/transport/presence.ts";
import { type RealtimeClient, RealtimeSignaling } from "../../src/transport/realtime.ts";
import type { ChannelState } from "../../src/transport/signaling.ts";

type Status = (status: string, error?: Error) => void;

class FakeChannel {
    status: Status = () => undefined;
    heard: (message: unknown) => void = () => undefined;
    told: (message: unknown) => void = () => undefined;
    sent: unknown[] = [];
    reply = "ok";
    readonly topic: string;
    readonly options: unknown;

    constructor(topic: string, options: unknown) {
        this.topic = topic;
        this.options = options;
    }

    on(type: string, _filter: unknown, callback: (message: unknown) => void): this {
        if (type === "broadcast") this.heard = callback;
        if (type === "system") this.told = callback;
        return this;
    }

    subscribe(status: Status): this {
        this.status = status;
        return this;
    }

    async send(message: unknown): Promise<string> {
        this.sent.push(message);
        return this.reply === "never" ? new Promise(() => undefined) : this.reply;
    }

    presenceState(): unknown {
        return {};
    }
}

class FakeClient {
    channels: FakeChannel[] = [];
    steps: string[] = [];
    readonly realtime = {
        setAuth: async () => {
            this.steps.push("auth");
        },
        isConnected: () => true,
        pendingHeartbeatRef: null as string | null,
        sendHeartbeat: async () => {
            const { realtime } = this;
            this.steps.push(realtime.pendingHeartbeatRef === null ? "heartbeat" : "give up");
            realtime.pendingHeartbeatRef ??= String(this.steps.length);
        },
    };

    channel(topic: string, options: unknown): FakeChannel {
        this.steps.push("channel");
        const channel = new FakeChannel(topic, options);
        this.channels.push(channel);
        return channel;
    }

    async removeChannel(): Promise<string> {
        this.steps.push("remove");
        return "ok";
    }

    /** The channel under way, once the adapter has made it. */
    async made(count: number): Promise<FakeChannel> {
        await vi.waitFor(() => expect(this.channels.length).toBe(count));
        return this.channels[count - 1] as FakeChannel;
    }
}

function signaling(): [RealtimeSignaling, FakeClient] {
    const client = new FakeClient();
    const timing = { ...DEFAULT_TIMING, reconnectFirst: 0.001, reconnectCap: 0.002 };
    return [new RealtimeSignaling(client as unknown as RealtimeClient, timing), client];
}

const quiet = { topic: "t", onMessage: () => undefined };

describe("realtime", () => {
    it("joins a private channel with the token set first, and hears broadcasts", async () => {
        const [service, client] = signaling();
        const heard: unknown[] = [];
        const joining = service.join({ topic: "t", onMessage: (...message) => heard.push(message) }, 1);
        const made = await client.made(1);
        expect(client.steps).toEqual(["auth", "channel"]);
        expect(made.options).toMatchObject({
            config: { private: true, broadcast: { ack: true, self: false } },
        });
        made.status("SUBSCRIBED");
        const channel = await joining;
        expect([channel.state, service.topics()]).toEqual(["joined", ["t"]]);
        made.heard({ event: "offer", payload: { sdp: "x" } });
        expect(heard).toEqual([["offer", { sdp: "x" }]]);
        await channel.leave();
        expect([channel.state, service.topics()]).toEqual(["left", []]);
    });

    it("a refused join is final, a timed out one is a lost channel", async () => {
        const [service, client] = signaling();
        const refused = service.join(quiet, 1);
        (await client.made(1)).status(
            "CHANNEL_ERROR",
            new Error("Unauthorized: You do not have permissions"),
        );
        await expect(refused).rejects.toBeInstanceOf(Unauthorized);
        const late = service.join(quiet, 1);
        (await client.made(2)).status("TIMED_OUT");
        await expect(late).rejects.toBeInstanceOf(SignalingLost);
        expect(service.topics()).toEqual([]);
    });

    it("what the server says of a channel that it closes is why it was lost", async () => {
        const [service, client] = signaling();
        const why: unknown[] = [];
        const joining = service.join({ ...quiet, onState: (state, reason) => why.push([state, reason]) }, 1);
        const made = await client.made(1);
        made.status("SUBSCRIBED");
        made.told({ status: "ok", message: "Subscribed to PostgreSQL", extension: "postgres_changes" });
        const channel = await joining;
        made.told({ status: "error", message: "Too many messages per second", extension: "system" });
        made.status("CLOSED");
        expect(why.slice(1)).toEqual([["lost", "Too many messages per second"]]);
        await expect(channel.send("offer", {})).rejects.toThrow("Too many messages");
        await channel.leave();
    });

    it.each(["CHANNEL_ERROR", "TIMED_OUT", "CLOSED"])("after %s the channel is made anew", async (status) => {
        const [service, client] = signaling();
        const states: ChannelState[] = [];
        const joining = service.join({ ...quiet, onState: (state) => states.push(state) }, 1);
        const first = await client.made(1);
        first.status("SUBSCRIBED");
        const channel = await joining;
        first.status(status);
        expect(channel.state).toBe("lost");
        await expect(channel.send("offer", {})).rejects.toBeInstanceOf(SignalingLost);
        const second = await client.made(2);
        first.status("SUBSCRIBED"); // an echo of the old one
        expect(channel.state).toBe("lost");
        second.status("CHANNEL_ERROR", new Error("connection refused"));
        (await client.made(3)).status("SUBSCRIBED");
        expect(states).toEqual(["joined", "lost", "joined"]);
        expect(client.steps.slice(0, 5)).toEqual(["auth", "channel", "remove", "auth", "channel"]);
        await channel.leave();
    });

    it("does not ask again when the policies change their mind, nor after leave", async () => {
        const [service, client] = signaling();
        const joining = service.join(quiet, 1);
        const made = await client.made(1);
        made.status("SUBSCRIBED");
        const channel = await joining;
        made.status("CHANNEL_ERROR", new Error("Unauthorized"));
        await new Promise((resolve) => setTimeout(resolve, 20));
        expect([channel.state, client.channels.length]).toEqual(["lost", 1]);
        await channel.leave();
        made.status("CLOSED");
        expect(channel.state).toBe("left");
    });

    it("a broadcast under way fails with its channel, not with its own limit", async () => {
        const [service, client] = signaling();
        const joining = service.join(quiet, 1);
        const made = await client.made(1);
        made.status("SUBSCRIBED");
        const channel = await joining;
        made.reply = "never";
        const sending = channel.send("offer", {});
        made.status("CHANNEL_ERROR", new Error("socket closed"));
        await expect(sending).rejects.toBeInstanceOf(SignalingLost);
        await channel.leave();
    });

    it("in a hurry a socket that does not answer is given up after 3 s, one that does is kept", async () => {
        vi.useFakeTimers();
        try {
            const [service, client] = signaling();
            const { realtime } = client;
            service.hurry();
            service.hurry();
            expect(client.steps).toEqual(["heartbeat"]);
            realtime.pendingHeartbeatRef = null; // it was answered
            vi.advanceTimersByTime(3_000);
            service.hurry();
            vi.advanceTimersByTime(2_999);
            expect(client.steps).toEqual(["heartbeat", "heartbeat"]);
            vi.advanceTimersByTime(1);
            expect(client.steps).toEqual(["heartbeat", "heartbeat", "give up"]);
            await service.close();
            expect(vi.getTimerCount()).toBe(0);
        } finally {
            vi.useRealTimers();
        }
    });

    it("an unacknowledged broadcast is an error", async () => {
        const [service, client] = signaling();
        const joining = service.join(quiet, 1);
        const made = await client.made(1);
        made.status("SUBSCRIBED");
        const channel = await joining;
        await channel.send("offer", { sdp: "x" });
        expect(made.sent).toEqual([{ type: "broadcast", event: "offer", payload: { sdp: "x" } }]);
        made.reply = "timed out";
        await expect(channel.send("offer", {})).rejects.toThrow("timed out");
        await channel.leave();
    });
});

describe("presence", () => {
    beforeEach(() => {
        vi.useFakeTimers();
    });
    afterEach(() => {
        vi.useRealTimers();
    });

    it("an update never flickers, a lone leave counts after 1.5 s", () => {
        const told: string[][] = [];
        const presence = new PresenceDebounce(1.5, (now) =>
            told.push([...now].map(([key, meta]) => `${key}=${String(meta.name)}`)),
        );
        presence.state({ a: [{ name: "one" }] });
        presence.state({});
        vi.advanceTimersByTime(1499);
        presence.state({ a: [{ name: "old" }, { name: "two" }] });
        vi.advanceTimersByTime(5000);
        presence.state({});
        vi.advanceTimersByTime(1499);
        expect(told).toEqual([["a=one"], ["a=one"], ["a=two"], ["a=two"]]);
        vi.advanceTimersByTime(1);
        expect(told.at(-1)).toEqual([]);
        presence.state({ a: [{ name: "back" }] });
        presence.state({});
        presence.close();
        vi.advanceTimersByTime(5000);
        expect(told.at(-1)).toEqual(["a=back"]);
    });
});
