// Keys, fingerprints, statements and proofs by the vectors that pytest reads too.

import { describe, expect, it } from "vitest";
import { InvalidInput, PeerNotTrusted } from "../../src/protocol/errors.ts";
import {
    fingerprints,
    holds,
    keyFingerprint,
    parseKey,
    parseProof,
    signTranscript,
    statement,
    toBase64,
    verifyTranscript,
} from "../../src/protocol/proof.ts";
import {
    type Answer,
    type ConnectionReady,
    type ConnectionRequest,
    type Message,
    type Offer,
    type ProofFields,
    parse,
} from "../../src/protocol/signaling.ts";
import { ClientProofs } from "../../src/protocol/trust.ts";
import { seeded } from "../keys.ts";
import { fromHex, toHex, vectors } from "../vectors.ts";

type Bytes = Uint8Array<ArrayBuffer>;
const bytes = (hex: string) => fromHex(hex) as Bytes;

interface Vectors {
    keys: { seed: string; key: string; fingerprint: string }[];
    fingerprints: { name: string; sdp: string; result?: string[]; error?: string }[];
    statements: { purpose: string; parts: string[]; bytes: string }[];
    parse: { name: string; proof: ProofFields; error?: string }[];
    flows: {
        name: string;
        agentId: string;
        sessionId: string | null;
        clientSeed: string;
        agentSeed: string;
        clientNonce: string;
        messages: { event: string; payload: Record<string, unknown> }[];
    }[];
    transcript: { seed: string; transcript: string; proof: string };
}
const given = vectors<Vectors>("proof");

function fieldOf(read: () => unknown): string | undefined {
    try {
        read();
    } catch (error) {
        if (error instanceof InvalidInput) return error.field;
        throw error;
    }
    return undefined;
}

describe("proof", () => {
    it.each(given.keys)("key $key", async ({ seed, key, fingerprint }) => {
        const { key: made } = await seeded(bytes(seed));
        expect([toBase64(made), await keyFingerprint(parseKey(key))]).toEqual([key, fingerprint]);
    });

    it.each(given.fingerprints)("fingerprints: $name", ({ sdp, result, error }) => {
        if (error) expect(fieldOf(() => fingerprints(sdp))).toBe(error);
        else expect(fingerprints(sdp)).toEqual(result);
    });

    it.each(given.statements)("statement for $purpose", ({ purpose, parts, bytes: signed }) => {
        expect(toHex(statement(purpose, ...parts.map(bytes)))).toBe(signed);
    });

    it.each(given.parse)("JSON: $name", ({ proof, error }) => {
        expect(fieldOf(() => parseProof(proof))).toBe(error);
    });

    it("the transcript of the relay", async () => {
        const { seed, transcript, proof } = given.transcript;
        const signer = await seeded(bytes(seed));
        const signature = await signer.sign(statement("relay", bytes(transcript)));
        expect(toHex(signer.key) + toHex(signature)).toBe(proof);
        expect(toHex(await signTranscript(signer, bytes(transcript)))).toBe(proof);
        expect(toHex(await verifyTranscript(bytes(transcript), bytes(proof)))).toBe(toHex(signer.key));
    });

    it("what is no proof of the relay's peer", async () => {
        const { transcript, proof } = given.transcript;
        const other = `${transcript.slice(0, -2)}${transcript.endsWith("00") ? "01" : "00"}`;
        for (const [over, shown] of [
            [transcript, ""],
            [transcript, proof.slice(2)],
            [transcript, `01${"00".repeat(95)}`],
            [transcript, `${"ff".repeat(32)}${proof.slice(64)}`],
            [transcript, `${proof.slice(0, -2)}${proof.endsWith("00") ? "01" : "00"}`],
            [other, proof],
        ] as const)
            await expect(verifyTranscript(bytes(over), bytes(shown))).rejects.toThrow(PeerNotTrusted);
    });

    it("a key that is none holds nothing", async () => {
        const key = new Uint8Array(32).fill(0xff);
        const nothing = { key, nonce: new Uint8Array(16), signature: new Uint8Array(64) };
        expect(await holds(nothing, statement("dtls"))).toBe(false);
    });
});

describe.each(given.flows)("flow: $name", (flow) => {
    const play = async (proofs: ClientProofs, message: Message) => {
        switch (message.event) {
            case "connection-request":
                return proofs.request(bare(message));
            case "offer":
                return proofs.offer(bare(message));
            case "connection-ready":
                return message.answer === undefined
                    ? proofs.ready(message.proof)
                    : proofs.answer(message.answer, message.proof);
            case "answer":
                return proofs.answer(message.sdp, message.proof);
            default:
                throw new Error(message.event);
        }
    };
    const bare = <M extends ConnectionRequest | Offer>({ proof: _, ...message }: M): M => message as M;
    const client = async (nonce = flow.clientNonce) =>
        new ClientProofs(await seeded(bytes(flow.clientSeed)), flow.agentId, flow.sessionId, () =>
            bytes(nonce),
        );
    const messages = flow.messages.map(({ event, payload }) => parse(event, payload));

    it("says exactly this and takes what the agent says", async () => {
        const proofs = await client();
        const { key } = await seeded(bytes(flow.agentSeed));
        for (const message of messages) {
            const outcome = await play(proofs, message);
            expect(outcome).toEqual("proof" in message && isOurs(message) ? message : key);
        }
    });

    it("knows a ready for an earlier attempt from a forged one", async () => {
        const [first] = messages.filter((one) => one.event === "connection-request");
        for (const ready of messages) {
            if (ready.event !== "connection-ready" || ready.answer !== undefined || !first) continue;
            const nonces = [flow.clientNonce, "ff".repeat(16), "ee".repeat(16)];
            const proofs = new ClientProofs(
                await seeded(bytes(flow.clientSeed)),
                flow.agentId,
                flow.sessionId,
                () => bytes(nonces.shift() ?? ""),
            );
            await play(proofs, first);
            expect(await proofs.isLate(ready.proof)).toBe(false); // it is in time
            await play(proofs, first);
            expect(await proofs.isLate(ready.proof)).toBe(true);
            await play(proofs, first);
            expect(await proofs.isLate(ready.proof)).toBe(true);
            expect(await proofs.isLate({ ...ready.proof, nonce: "AAAAAAAAAAAAAAAAAAAAAA" })).toBe(false);
            expect(await proofs.isLate(undefined)).toBe(false);
        }
    });

    it("takes nothing of an older attempt, and nothing that was changed", async () => {
        const [agents] = messages.filter((one) => !isOurs(one)) as (ConnectionReady | Answer)[];
        const later = await client("ff".repeat(16));
        for (const message of messages.filter(isOurs)) await play(later, message);
        await expect(play(later, agents as Message)).rejects.toThrow(PeerNotTrusted);
        const now = await client();
        for (const message of messages.filter(isOurs)) await play(now, message);
        const last = messages.at(-1) as ConnectionReady | Answer;
        const sdp = (last.event === "answer" ? last.sdp : last.answer) ?? "";
        const swapped = sdp.replace(/22:22/, "66:66");
        await expect(now.answer(swapped, last.proof)).rejects.toThrow(PeerNotTrusted);
        expect(await now.answer(sdp, undefined)).toBeNull();
    });
});

function isOurs(message: Message): boolean {
    return message.event === "connection-request" || message.event === "offer";
}
