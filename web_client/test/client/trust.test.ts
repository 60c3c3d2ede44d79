// A back end that lies to the page: the pins, the row's key, the downgrade; and a connection that ends by it.

import { beforeEach, describe, expect, it, vi } from "vitest";
import { Connection } from "../../src/client/connection.ts";
import { Connector } from "../../src/client/connector.ts";
import { KnownAgents } from "../../src/client/known.ts";
import { type Introduced, Trust } from "../../src/client/trust.ts";
import { PeerNotTrusted } from "../../src/protocol/errors.ts";
import {
    type Bytes,
    fingerprints,
    makeProof,
    parseProof,
    type Signer,
    signTranscript,
    statement,
    toBase64,
    verifyTranscript,
} from "../../src/protocol/proof.ts";
import type { ConnectionRequest, ProofFields } from "../../src/protocol/signaling.ts";
import { DEFAULT_TIMING } from "../../src/protocol/timing.ts";
import { seeded } from "../keys.ts";
import { MemoryWire } from "../runtime/memory_wire.ts";
import { AGENT, signaling } from "./fakes.ts";

const utf8 = new TextEncoder();
const sdp = (byte: string) =>
    `v=0\r\na=ice-ufrag:abcd\r\na=fingerprint:sha-256 ${Array(32).fill(byte).join(":")}\r\n`;
const OFFER = sdp("11");
const ANSWER = sdp("22");

let items: Map<string, string>;
let known: KnownAgents;
let introduced: Introduced;
let agent: Signer;
let mallory: Signer;
let client: Signer;

beforeEach(async () => {
    items = new Map();
    known = new KnownAgents({
        getItem: (name) => items.get(name) ?? null,
        setItem: (name, text) => void items.set(name, text),
    });
    const make = (byte: number) => seeded(new Uint8Array(32).fill(byte));
    [agent, mallory, client] = await Promise.all([make(1), make(2), make(3)]);
    introduced = { backend: "http://hub.test", id: AGENT, name: "atelier", publicKey: toBase64(agent.key) };
});

const trust = (key: Signer | null = client) =>
    new Trust(
        "session-1",
        async () => key,
        known,
        () => introduced,
    );
const REQUEST: ConnectionRequest = {
    event: "connection-request",
    agentId: AGENT,
    sessionId: "session-1",
    offer: OFFER,
};

/** The proof of whoever says to be the agent, over an answer to this request, or over none yet. */
async function proof(
    by: Signer,
    request: ConnectionRequest,
    answer: string | null = ANSWER,
    session = "session-1",
): Promise<ProofFields> {
    const nonce: Bytes = new Uint8Array(16).fill(7);
    const parts = [
        "agent",
        session,
        AGENT,
        parseProof(request.proof ?? {}).nonce,
        nonce,
        answer === null ? "" : fingerprints(answer).join("\n"),
        answer === null ? "" : fingerprints(OFFER).join("\n"),
    ].map((part) => (typeof part === "string" ? utf8.encode(part) : part));
    return makeProof(by, nonce, statement("dtls", ...parts));
}

async function connect(by: Signer | null, side = trust()): Promise<void> {
    const request = await side.request(REQUEST);
    await side.answer(ANSWER, by ? await proof(by, request) : undefined);
}

describe("trust", () => {
    it("pins at the first contact and holds to it", async () => {
        await connect(agent);
        expect(known.find(introduced)?.key).toBe(toBase64(agent.key));
        introduced = { ...introduced, publicKey: null };
        await connect(agent);
        await expect(connect(mallory)).rejects.toThrow(/has changed/);
        await expect(connect(null)).rejects.toThrow(/without a proof/);
        introduced = { ...introduced, id: "00000000-0000-4000-8000-000000000002" }; // the same name
        expect(known.find(introduced)?.key).toBe(toBase64(agent.key));
    });

    it("the first contact: the key is the row's, and there is one", async () => {
        await expect(connect(mallory)).rejects.toThrow(/another key than the back end says/);
        await expect(connect(null)).rejects.toThrow(/without a proof/);
        expect(known.find(introduced)).toBeNull();
        introduced = { ...introduced, publicKey: null };
        await connect(null); // an agent that proves nothing
        expect(known.find(introduced)).toBeNull();
    });

    it("another key in the row: nothing is sent; accepted by hand only", async () => {
        await connect(agent);
        introduced = { ...introduced, publicKey: toBase64(mallory.key) };
        const side = trust();
        const error = await side.request(REQUEST).catch((one: unknown) => one);
        expect(error).toBeInstanceOf(PeerNotTrusted);
        expect(side.refused?.fingerprint).toBe((error as PeerNotTrusted).shown);
        side.accept();
        await connect(mallory);
        expect(side.refused).toBeNull();
        introduced = { ...introduced, publicKey: "nonsense" };
        await expect(trust().request(REQUEST)).rejects.toThrow(/is none/);
    });

    it("a changed description, another session, an older attempt", async () => {
        const side = trust();
        const request = await side.request(REQUEST);
        const good = await proof(agent, request);
        await expect(side.answer(sdp("66"), good)).rejects.toThrow(/does not hold/);
        await expect(side.answer(`${ANSWER}a=fingerprint:sha-1 00\r\n`, good)).rejects.toThrow(
            PeerNotTrusted,
        );
        const other = await proof(agent, request, ANSWER, "session-2");
        await expect(side.answer(ANSWER, other)).rejects.toThrow(/does not hold/);
        await side.request(REQUEST);
        await expect(side.answer(ANSWER, good)).rejects.toThrow(/does not hold/);
        await expect(side.answer(ANSWER, { key: "x" })).rejects.toThrow(/cannot be trusted/);
    });

    it("a browser that cannot check: a plain client, unless a key is known", async () => {
        const side = trust(null);
        expect((await side.request(REQUEST)).proof).toBeUndefined();
        await side.answer(ANSWER, undefined);
        expect(await side.inWords()).toMatch(/lacks Ed25519/);
        await connect(agent);
        await expect(trust(null).request(REQUEST)).rejects.toThrow(/lacks Ed25519/);
    });

    it("a damaged list trusts nobody", async () => {
        const warned = vi.spyOn(console, "warn").mockImplementation(() => undefined);
        for (const text of ["{", "{}", '[{"id":1}]']) {
            items.set("doorstep.known_agents", text);
            await expect(connect(agent)).rejects.toThrow(/is damaged/);
        }
        warned.mockRestore();
    });
});

describe("a connection that is lied to", () => {
    it.each(["swapped", "stripped", "forged"] as const)(
        "%s: final, and the answer is never used",
        async (lie) => {
            const applied = vi.fn();
            let listener: (event: string, payload: unknown) => void = () => undefined;
            const connection = new Connection({
                agentId: AGENT,
                iceServers: [],
                timing: DEFAULT_TIMING,
                makeTrust: (sessionId) =>
                    new Trust(
                        sessionId,
                        async () => client,
                        known,
                        () => introduced,
                    ),
                agents: {
                    joined: async () => undefined,
                    send: async (_, payload) => {
                        const request = { event: "connection-request", ...payload } as ConnectionRequest;
                        const by = lie === "forged" ? mallory : agent;
                        const made = await proof(by, request, ANSWER, request.sessionId);
                        listener("connection-ready", {
                            agentId: AGENT,
                            sessionId: request.sessionId,
                            answer: lie === "swapped" ? sdp("66") : ANSWER,
                            ...(lie === "stripped" ? {} : { proof: made }),
                        });
                    },
                    listen: (one) => {
                        listener = one;
                        return () => undefined;
                    },
                },
                signaling,
                makePeer: () => ({
                    onCandidate: null,
                    createOffer: async () => OFFER,
                    applyAnswer: applied,
                    addCandidate: async () => undefined,
                    wire: () => new Promise(() => undefined),
                    close: () => undefined,
                }),
            });
            connection.connect();
            await vi.waitFor(() => expect(connection.error.value).toBeInstanceOf(PeerNotTrusted));
            expect(applied).not.toHaveBeenCalled();
            expect(connection.status.value).toMatchObject({ state: "failed", attempt: 1 });
            expect(known.find(introduced)).toBeNull();
            connection.close();
        },
    );
});

describe("two knocks soon after each other, without an offer and with it", () => {
    it("a ready for the first that comes while the second is being signed is late, not forged", async () => {
        vi.spyOn(console, "info").mockImplementation(() => undefined);
        const applied = vi.fn();
        let listener: (event: string, payload: unknown) => void = () => undefined;
        let offered: (sdp: string) => void = () => undefined;
        let late: object | null = null;
        const about = { agentId: AGENT, sessionId: "session-1" };
        const connector = new Connector({
            ...about,
            iceServers: [],
            timing: DEFAULT_TIMING,
            trust: trust(),
            carry: async () => undefined,
            capabilities: () => {
                if (late) listener("connection-ready", late); // the second knock is decided on
                late = null;
                return ["relay"];
            },
            agents: {
                joined: async () => undefined,
                send: async (_, payload) => {
                    const request = { event: "connection-request", ...payload } as ConnectionRequest;
                    if (request.offer) {
                        const proved = await proof(agent, request);
                        listener("connection-ready", { ...about, answer: ANSWER, proof: proved });
                    } else {
                        late = { ...about, proof: await proof(agent, request, null) };
                        offered(OFFER);
                    }
                },
                listen: (one) => {
                    listener = one;
                    return () => undefined;
                },
            },
            signaling,
            makePeer: () => ({
                onCandidate: null,
                createOffer: () =>
                    new Promise((resolve) => {
                        offered = resolve;
                    }),
                applyAnswer: applied,
                addCandidate: async () => undefined,
                wire: async () => new MemoryWire(),
                close: () => undefined,
            }),
        });
        await connector.connect();
        expect([applied.mock.calls, late]).toEqual([[[ANSWER]], null]);
        expect(console.info).toHaveBeenCalledWith("a ready for an earlier knock is ignored");
    });
});

describe("the proof on a wire with a transcript", () => {
    const transcript: Bytes = utf8.encode("what both sides have seen");

    it("ours is signed; the agent's is pinned at the first contact and compared ever after", async () => {
        const prover = trust().prover();
        const ours = await verifyTranscript(transcript, await prover.sign(transcript));
        expect(toBase64(ours)).toBe(toBase64(client.key));
        await prover.verify(transcript, await signTranscript(agent, transcript));
        expect(known.find(introduced)?.key).toBe(toBase64(agent.key));
        await expect(prover.verify(transcript, await signTranscript(mallory, transcript))).rejects.toThrow(
            "has changed",
        );
        expect(trust().refused?.key).toBe(toBase64(mallory.key));
    });

    it("of another transcript, of another key than the row's, and none at all", async () => {
        const prover = trust().prover();
        const other = await signTranscript(agent, utf8.encode("another one"));
        await expect(prover.verify(transcript, other)).rejects.toThrow(PeerNotTrusted);
        const forged = await signTranscript(mallory, transcript);
        await expect(prover.verify(transcript, forged)).rejects.toThrow("another key than the back end says");
        await expect(prover.verify(transcript, new Uint8Array())).rejects.toThrow("without a proof");
        introduced = { ...introduced, publicKey: null };
        await prover.verify(transcript, new Uint8Array());
        expect(items.size).toBe(0);
    });

    it("a session goes on with the key that it began with, also when that is forgotten meanwhile", async () => {
        introduced = { ...introduced, publicKey: null };
        const prover = trust().prover();
        await prover.verify(transcript, await signTranscript(agent, transcript));
        known.forgetAll();
        const forged = await signTranscript(mallory, transcript);
        await expect(prover.verify(transcript, forged)).rejects.toThrow("began with another key");
        await expect(prover.verify(transcript, new Uint8Array())).rejects.toThrow("began with another key");
        expect(known.all()).toEqual([]);
        await trust().prover().verify(transcript, forged);
        expect(known.all().map(({ key }) => key)).toEqual([toBase64(mallory.key)]);
        for (const pin of known.all()) known.forget(pin);
        expect(known.all()).toEqual([]);
        items.set("doorstep.known_agents", "{");
        expect(() => known.all()).toThrow("damaged");
        known.forgetAll();
        expect(known.all()).toEqual([]);
    });

    it("a browser without keys proves nothing, and refuses a machine that it knows", async () => {
        const plain = trust(null).prover();
        expect((await plain.sign(transcript)).length).toBe(0);
        await plain.verify(transcript, await signTranscript(agent, transcript));
        await trust()
            .prover()
            .verify(transcript, await signTranscript(agent, transcript));
        await expect(plain.sign(transcript)).rejects.toThrow(PeerNotTrusted);
    });
});
