// Tests: a Realtime service in memory, whose channels may lose, double and delay broadcasts, or come and go.

import { SignalingLost, Unauthorized } from "../../src/protocol/errors.ts";
import type { OwnSignaling } from "../../src/transport/broadcast_link.ts";
import type { Channel, ChannelSpec, ChannelState } from "../../src/transport/signaling.ts";

export class MemoryBus {
    /** Asked for each receiver of a broadcast: the delays in milliseconds after which it comes; none = lost. */
    arrivals: () => readonly number[] = () => [0];
    /** What is passed on in the place of a payload. */
    lie: (payload: Record<string, unknown>) => Record<string, unknown> = (payload) => payload;
    refuses = false;
    readonly said: Record<string, unknown>[] = [];
    readonly members = new Set<MemoryChannel>();

    signaling(): OwnSignaling {
        const own = new Set<MemoryChannel>();
        return {
            join: async (spec) => {
                await new Promise((resolve) => setImmediate(resolve));
                if (this.refuses) throw new Unauthorized(`the policies refuse ${spec.topic}`);
                const channel = new MemoryChannel(this, spec);
                own.add(channel);
                this.members.add(channel);
                return channel;
            },
            close: async () => {
                for (const channel of own) await channel.leave();
            },
        };
    }

    /** Every channel is lost; what was under way with it. */
    drop(): void {
        for (const channel of this.members) channel.become("lost");
    }

    restore(): void {
        for (const channel of this.members) channel.become("joined");
    }

    broadcast(sender: MemoryChannel, event: string, payload: Record<string, unknown>): void {
        this.said.push(payload);
        const told = this.lie(JSON.parse(JSON.stringify(payload)) as Record<string, unknown>);
        for (const member of this.members)
            if (member !== sender && member.topic === sender.topic)
                for (const delay of this.arrivals()) setTimeout(() => member.hear(event, told), delay);
    }
}

class MemoryChannel implements Channel {
    state: ChannelState = "joined";
    private readonly bus: MemoryBus;
    private readonly spec: ChannelSpec;

    constructor(bus: MemoryBus, spec: ChannelSpec) {
        this.bus = bus;
        this.spec = spec;
    }

    get topic(): string {
        return this.spec.topic;
    }

    async send(event: string, payload: Record<string, unknown>): Promise<void> {
        if (this.state !== "joined") throw new SignalingLost("not joined");
        this.bus.broadcast(this, event, payload);
    }

    async leave(): Promise<void> {
        this.bus.members.delete(this);
        this.become("left");
    }

    become(state: ChannelState): void {
        if (this.state === state || this.state === "left") return;
        this.state = state;
        this.spec.onState?.(state);
    }

    hear(event: string, payload: unknown): void {
        if (this.state === "joined") this.spec.onMessage(event, payload);
    }
}
