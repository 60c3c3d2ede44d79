// The sealed channel: the vectors that pytest reads too, and everything that a relay might do to what it forwards.

import { beforeEach, describe, expect, it, vi } from "vitest";
import { ConnectFailed, InvalidInput, ProtocolError } from "../../src/protocol/errors.ts";
import type { Role } from "../../src/protocol/frames.ts";
import type { Lane } from "../../src/protocol/lanes.ts";
import { MAX_FRAME } from "../../src/protocol/limits.ts";
import type { Bytes } from "../../src/protocol/proof.ts";
import {
    Handshake,
    makeEphemeral,
    OVERHEAD,
    PROOF_BYTES,
    type Prover,
    type SealedChannel,
} from "../../src/protocol/seal.ts";
import { fromRandom } from "../ephemeral.ts";
import { fromHex, toHex, vectors } from "../vectors.ts";

interface Side {
    random: string;
    greeting: string;
    transcript: string;
    proof: string;
    proofMessage: string;
    frames: { lane: Lane; frame: string; message: string }[];
    count: { taken: number; message: string };
    farewell: { frame: string; message: string };
}
interface Vectors {
    handshakes: { name: string; sessionId: string; agentId: string; client: Side; agent: Side }[];
    refused_greetings: { name: string; role: Role; greeting: string; position: number }[];
}
const given = vectors<Vectors>("seal");
const SESSION = "session-0001";
const AGENT = "6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10";
const RANDOM = Uint8Array.from({ length: 64 }, (_, at) => at);
const OTHER = Uint8Array.from({ length: 64 }, (_, at) => 100 + at);
const bytes = (hex: string) => fromHex(hex) as Bytes;
const text = (words: string) => new TextEncoder().encode(words);

/** Proves by a name; believes one name. */
class Named implements Prover {
    signed = "";
    verified = "";
    private readonly name: Bytes;
    private readonly believes: Bytes;

    constructor(name: Bytes = new Uint8Array(), believes: Bytes = new Uint8Array()) {
        this.name = name;
        this.believes = believes;
    }

    async sign(transcript: Bytes): Promise<Bytes> {
        this.signed = toHex(transcript);
        return this.name;
    }

    async verify(transcript: Bytes, proof: Bytes): Promise<void> {
        this.verified = toHex(transcript);
        if (toHex(proof) !== toHex(this.believes)) throw new ProtocolError("not the one that was expected");
    }
}

type Ids = readonly [session: string, agent: string];

async function pair(agentIds: Ids = [SESSION, AGENT]): Promise<[SealedChannel, SealedChannel]> {
    const client = new Handshake("client", SESSION, AGENT, await fromRandom(RANDOM));
    const agent = new Handshake("agent", ...agentIds, await fromRandom(OTHER));
    return Promise.all([client.complete(agent.greeting()), agent.complete(client.greeting())]);
}

async function proved(): Promise<[SealedChannel, SealedChannel]> {
    const [client, agent] = await pair();
    await agent.check(await client.prove(new Named()), new Named());
    await client.check(await agent.prove(new Named()), new Named());
    return [client, agent];
}

beforeEach(() => {
    vi.spyOn(console, "debug").mockImplementation(() => undefined);
});

describe("sealed channel: vectors", () => {
    it.each(given.handshakes)("$name", async (handshake) => {
        const { sessionId, agentId } = handshake;
        const roles = ["client", "agent"] as const;
        const sides = await Promise.all(
            roles.map(
                async (role) =>
                    new Handshake(
                        role,
                        sessionId,
                        agentId,
                        await fromRandom(fromHex(handshake[role].random)),
                    ),
            ),
        );
        expect(sides.map((side) => toHex(side.greeting()))).toEqual(
            roles.map((role) => handshake[role].greeting),
        );
        const [client, agent] = (await Promise.all(
            sides.map((side, at) => side.complete(bytes(handshake[roles[1 - at] as Role].greeting))),
        )) as [SealedChannel, SealedChannel];
        for (const [role, ours, peer] of [
            ["client", client, agent],
            ["agent", agent, client],
        ] as const) {
            const side = handshake[role];
            expect(toHex(peer.transcript(role))).toBe(side.transcript);
            const prover = new Named(bytes(side.proof), bytes(side.proof));
            expect(toHex(await ours.prove(prover))).toBe(side.proofMessage);
            await peer.check(bytes(side.proofMessage), prover);
            expect([prover.signed, prover.verified]).toEqual([side.transcript, side.transcript]);
        }
        for (const [role, ours, peer] of [
            ["client", client, agent],
            ["agent", agent, client],
        ] as const) {
            for (const { lane, frame, message } of handshake[role].frames) {
                expect(toHex(await ours.seal(lane, bytes(frame)))).toBe(message);
                expect(await peer.open(bytes(message))).toEqual([lane, bytes(frame)]);
            }
            const { taken, message } = handshake[role].count;
            expect(toHex(await ours.sealCount(taken))).toBe(message);
            expect(await peer.open(bytes(message))).toBe(taken);
            const { farewell } = handshake[role];
            expect(toHex(await ours.sealFarewell(bytes(farewell.frame)))).toBe(farewell.message);
            expect(await peer.open(bytes(farewell.message))).toEqual(["control", bytes(farewell.frame)]);
        }
    });

    it.each(given.refused_greetings)("refused: $name", async ({ role, greeting, position }) => {
        const handshake = new Handshake(role, SESSION, AGENT, await fromRandom(RANDOM));
        await expect(handshake.complete(bytes(greeting))).rejects.toMatchObject({
            name: "ProtocolError",
            position,
        });
    });
});

describe("sealed channel: what a relay might do", () => {
    it("what is sealed at once opens in order", async () => {
        const [client, agent] = await proved();
        const sealed = Array.from({ length: 50 }, (_, at) => client.seal("control", text(`frame ${at}`)));
        const opened = (await Promise.all(sealed)).map((message) => agent.open(message));
        const frames = (await Promise.all(opened)) as [Lane, Bytes][];
        expect(frames.map(([, frame]) => new TextDecoder().decode(frame))).toEqual(
            sealed.map((_, at) => `frame ${at}`),
        );
    });

    it("a changed byte anywhere is refused, and everything after it", async () => {
        for (let at = 0; at < 5 + OVERHEAD; at++) {
            const [client, agent] = await proved();
            const message = await client.seal("terminal-io", text("12345"));
            const changed = message.map((byte, place) => (place === at ? byte ^ 1 : byte));
            await expect(agent.open(changed)).rejects.toThrow(ProtocolError);
            await expect(agent.open(message)).rejects.toThrow(ProtocolError);
            await expect(agent.open(await client.seal("control", text("next")))).rejects.toThrow(
                ProtocolError,
            );
        }
    });

    it("a message after a broken one does not open, though both were on their way", async () => {
        const [client, agent] = await proved();
        const [first, second] = await Promise.all([
            client.seal("control", text("first")),
            client.seal("control", text("second")),
        ]);
        const opened = [agent.open(first.map((byte) => byte ^ 1)), agent.open(second)];
        const ends = await Promise.allSettled(opened);
        expect(ends.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    });

    it("repeated, left out and reordered", async () => {
        const [client, agent] = await proved();
        const once = await client.seal("control", text("once"));
        await agent.open(once);
        await expect(agent.open(once)).rejects.toThrow("repeated");
        const [other, theirs] = await proved();
        await other.seal("control", text("first"));
        await expect(theirs.open(await other.seal("control", text("second")))).rejects.toThrow("left out");
    });

    it("a farewell comes at any time and is the last", async () => {
        const [client, agent] = await proved();
        const farewell = await client.sealFarewell(text("bye"));
        await agent.open(await client.seal("control", text("first")));
        await client.seal("control", text("was never sent"));
        expect(await agent.open(farewell)).toEqual(["control", text("bye")]);
        await expect(agent.open(farewell)).rejects.toThrow(ProtocolError);
        await expect(agent.open(await client.seal("control", text("later")))).rejects.toThrow(ProtocolError);
        await expect(client.sealFarewell(text("something else"))).rejects.toThrow(ProtocolError);
    });

    it("nobody else says farewell", async () => {
        const [client, agent] = await proved();
        const own = await client.sealFarewell(text("bye"));
        const frame = await client.seal("control", text("not the last"));
        const forged = [
            await agent.sealFarewell(text("bye")),
            own.map((byte, at) => (at === own.length - 1 ? byte ^ 1 : byte)),
            own.slice(0, 10),
            own.slice(0, 1),
            Uint8Array.of(0x83, ...frame.slice(1)),
            Uint8Array.of(0, ...own.slice(1)),
        ];
        for (const message of forged) {
            const [, other] = await proved();
            await expect(other.open(message)).rejects.toThrow(ProtocolError);
            await expect(other.open(own)).rejects.toThrow(ProtocolError);
        }
    });

    it.each([0, 1, 16, 17, 20])("cut to %i bytes", async (length) => {
        const [client, agent] = await proved();
        const message = await client.seal("file-transfer", text("0123456789"));
        await expect(agent.open(message.slice(0, length))).rejects.toThrow(ProtocolError);
    });

    it("sent back", async () => {
        const [client] = await proved();
        await expect(client.open(await client.seal("control", text("to the agent")))).rejects.toThrow(
            ProtocolError,
        );
        const handshake = new Handshake("client", SESSION, AGENT, await fromRandom(RANDOM));
        await expect(handshake.complete(handshake.greeting())).rejects.toThrow("other role");
    });

    it.each([
        ["session", ["session-0002", AGENT]],
        ["agent", [SESSION, "6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d11"]],
    ] as const)("of another %s", async (_what, ids) => {
        const [client, agent] = await pair(ids);
        await expect(agent.check(await client.prove(new Named()), new Named())).rejects.toThrow(
            ProtocolError,
        );
    });

    it("of an older handshake", async () => {
        const [client] = await proved();
        const older = await client.seal("control", text("older"));
        const again = new Handshake("client", SESSION, AGENT, await fromRandom(OTHER.toReversed()));
        const agent = await new Handshake("agent", SESSION, AGENT, await fromRandom(OTHER)).complete(
            again.greeting(),
        );
        await expect(agent.check(older, new Named())).rejects.toThrow(ProtocolError);
        await expect(agent.check(await client.prove(new Named()), new Named())).rejects.toThrow(
            ProtocolError,
        );
    });

    it("in the middle, with a handshake to either side: the transcripts differ", async () => {
        const client = new Handshake("client", SESSION, AGENT, await fromRandom(RANDOM));
        const agent = new Handshake("agent", SESSION, AGENT, await fromRandom(OTHER));
        const [falseAgent, falseClient] = [
            new Handshake("agent", SESSION, AGENT, await makeEphemeral()),
            new Handshake("client", SESSION, AGENT, await makeEphemeral()),
        ];
        const one = await client.complete(falseAgent.greeting());
        const two = await agent.complete(falseClient.greeting());
        for (const role of ["client", "agent"] as const)
            expect(toHex(one.transcript(role))).not.toBe(toHex(two.transcript(role)));
    });

    it("a frame before the proof, a second proof, no proof", async () => {
        const [client, agent] = await pair();
        const proof = await client.prove(new Named());
        const early = await client.seal("control", text("early"));
        await expect(agent.open(early)).rejects.toThrow("before the proof");
        await expect(agent.check(early, new Named())).rejects.toThrow("not the proof");
        await agent.check(proof, new Named());
        await expect(agent.check(proof, new Named())).rejects.toThrow("not the proof");
    });

    it("after a refused proof nothing opens", async () => {
        const [client, agent] = await pair();
        const mallory = new Named(text("mallory"));
        const alice = new Named(new Uint8Array(), text("alice"));
        await expect(agent.check(await client.prove(mallory), alice)).rejects.toThrow("expected");
        await expect(agent.open(await client.seal("control", text("let me in")))).rejects.toThrow(
            "before the proof",
        );
    });

    it("limits", async () => {
        const [client, agent] = await proved();
        const biggest = new Uint8Array(MAX_FRAME);
        expect(await agent.open(await client.seal("control", biggest))).toEqual(["control", biggest]);
        const tooBig = await client.seal("control", new Uint8Array(MAX_FRAME + 1));
        await expect(agent.open(tooBig)).rejects.toThrow("at most");
        const [own, peer] = await pair();
        const proof = new Uint8Array(PROOF_BYTES);
        await expect(own.prove(new Named(new Uint8Array(PROOF_BYTES + 1)))).rejects.toThrow(InvalidInput);
        const message = await own.prove(new Named(proof));
        await expect(peer.check(new Uint8Array([...message, 1]), new Named())).rejects.toThrow("at most");
        await peer.check(message, new Named(proof, proof));
    });
});

it("a browser without X25519 says so", async () => {
    vi.spyOn(crypto.subtle, "generateKey").mockRejectedValue(new DOMException("no", "NotSupportedError"));
    await expect(makeEphemeral()).rejects.toThrow(ConnectFailed);
});
