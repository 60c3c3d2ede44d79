// The channel of all agents, for who needs it now.

import type { SupabaseClient } from "@supabase/supabase-js";
import { expect, it } from "vitest";
import { Agents } from "../../src/client/agents.ts";
import { SignalingLost } from "../../src/protocol/errors.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import type { Channel, ChannelSpec } from "../../src/transport/signaling.ts";

const nothing = { from: () => undefined } as unknown as Pick<SupabaseClient, "from">;

function agentsOn(join = DEFAULT_TIMING.join): {
    agents: Agents;
    spec: () => ChannelSpec;
    hurried: () => number;
} {
    let spec: ChannelSpec | undefined;
    let hurried = 0;
    const signaling = {
        join: async (asked: ChannelSpec): Promise<Channel> => {
            spec = asked;
            asked.onState?.("joined");
            const { topic } = asked;
            return { topic, state: "joined", send: async () => undefined, leave: async () => undefined };
        },
        hurry: () => {
            hurried += 1;
        },
    };
    const agents = new Agents(nothing, signaling, "user", { ...DEFAULT_TIMING, join });
    return { agents, spec: () => spec as ChannelSpec, hurried: () => hurried };
}

it("a lost channel is joined at once for who waits for it", async () => {
    const { agents, spec, hurried } = agentsOn();
    await agents.joined();
    expect(hurried()).toBe(0);
    spec().onState?.("lost");
    const waiting = agents.joined();
    expect(hurried()).toBe(1);
    spec().onState?.("joined");
    await waiting;
    await agents.close();
});

it("nobody waits longer than for a join", async () => {
    const { agents, spec } = agentsOn(0.01);
    await agents.joined();
    spec().onState?.("lost");
    await expect(agents.joined()).rejects.toBeInstanceOf(SignalingLost);
    await agents.close();
});
