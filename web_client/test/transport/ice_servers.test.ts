// The back end's STUN and TURN servers: asked as a user, kept while they hold, never in the way.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { IceServers } from "../../src/transport/ice_servers.ts";

const TURN = { urls: ["turn:t.test:3478?transport=udp"], username: "u", credential: "c" };
let answers: (Response | Promise<Response>)[];
let asked: { url: string; token: string | null }[];

beforeEach(() => {
    vi.useFakeTimers();
    [answers, asked] = [[], []];
    vi.spyOn(console, "info").mockImplementation(() => undefined);
    vi.stubGlobal("fetch", async (url: string, { headers }: { headers: Record<string, string> }) => {
        asked.push({ url, token: headers.authorization ?? null });
        const answer = await answers.shift();
        if (!answer) throw new TypeError("Failed to fetch");
        return answer;
    });
});

afterEach(() => {
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
    vi.unstubAllGlobals();
});

const made = () => new IceServers("wss://hub.test/relay/v1", async () => "token", DEFAULT_TIMING);
const answer = (iceServers: unknown, expiresIn = 600) => Response.json({ iceServers, expiresIn });

it("asked once while they hold, again after half of their life", async () => {
    const servers = made();
    answers = [answer([TURN]), answer([])];
    expect(await servers.soon()).toEqual([TURN]);
    expect(await servers.soon()).toEqual([TURN]);
    expect(asked).toEqual([{ url: "https://hub.test/relay/v1/ice-servers", token: "Bearer token" }]);
    await vi.advanceTimersByTimeAsync(300_001);
    expect(await servers.soon()).toEqual([TURN]); // they still hold; new ones are being asked for
    await vi.advanceTimersByTimeAsync(0);
    expect([await servers.soon(), asked.length]).toEqual([[], 2]);
});

it("what cannot be used is left out", async () => {
    const servers = made();
    const bare = { urls: "stun:s.test" };
    answers = [answer([{ urls: ["http://no.test"] }, null, 7, { urls: "turn:no.login" }, bare, TURN])];
    expect(await servers.soon()).toEqual([{ urls: ["stun:s.test"] }, TURN]);
});

it.each([
    ["none there", () => new Response("", { status: 404 })],
    ["refused", () => new Response("", { status: 401 })],
    ["nonsense", () => Response.json({ iceServers: 7 })],
    ["no answer at all", () => undefined],
])("%s: no servers, and no error", async (_what, make) => {
    const made_ = make();
    if (made_) answers = [made_];
    const servers = made();
    expect(await servers.soon()).toEqual([]);
    expect([await servers.soon(), asked.length]).toEqual([[], 1]);
    answers = [answer([TURN])];
    await vi.advanceTimersByTimeAsync(3_600_001);
    expect(await servers.soon()).toEqual([TURN]);
});

it("an offer does not wait long, and has them next time", async () => {
    const servers = made();
    let give: (response: Response) => void = () => undefined;
    answers = [
        new Promise((resolve) => {
            give = resolve;
        }),
    ];
    const first = servers.soon();
    await vi.advanceTimersByTimeAsync(DEFAULT_TIMING.iceServers * 1000);
    expect(await first).toEqual([]);
    give(answer([TURN]));
    await vi.advanceTimersByTimeAsync(0);
    expect([await servers.soon(), asked.length]).toEqual([[TURN], 1]);
});
