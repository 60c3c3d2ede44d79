// Protocol: which proof rides on which message of a client, and what is asked of the agent's (protocol/trust.py).

import { InvalidInput, PeerNotTrusted } from "./errors.ts";
import {
    type Bytes,
    fingerprints,
    holds,
    makeProof,
    NONCE_BYTES,
    type Proof,
    parseProof,
    type Signer,
    statement,
} from "./proof.ts";
import type { ConnectionRequest, Offer, ProofFields } from "./signaling.ts";

const BETWEEN = "the back end, or somebody on it, has changed what the two peers say to each other";
const NOTHING: Bytes = new Uint8Array();
const utf8 = new TextEncoder();

/** Attempts that are remembered. */
const EARLIER = 16;

/** The proofs of one client's attempts at one agent. */
export class ClientProofs {
    private earlier: readonly Bytes[] = [];
    private client = NOTHING;
    private agent = NOTHING;
    private ours: readonly string[] = [];
    private readonly signer: Signer;
    private readonly ids: readonly [Bytes, Bytes];
    private readonly random: (size: number) => Bytes;

    constructor(signer: Signer, agentId: string, sessionId: string | null, random = randomBytes) {
        this.signer = signer;
        this.ids = [utf8.encode(sessionId ?? ""), utf8.encode(agentId)];
        this.random = random;
    }

    /** Begin an attempt: the request with its proof. */
    async request(message: ConnectionRequest): Promise<ConnectionRequest> {
        if (this.client.length > 0) this.earlier = [...this.earlier.slice(1 - EARLIER), this.client];
        this.client = this.random(NONCE_BYTES);
        this.agent = NOTHING;
        return { ...message, proof: await this.prove(message.offer) };
    }

    /** Check the proof of a `connection-ready` that answers nothing yet; null if there is none. */
    async ready(proof: ProofFields | undefined): Promise<Bytes | null> {
        return proof ? this.check(proof, [], []) : null;
    }

    /** Whether this is the agent's word to an earlier attempt, which it may have slept through. */
    async isLate(given: ProofFields | undefined): Promise<boolean> {
        let proof: Proof;
        try {
            proof = parseProof(given ?? {});
        } catch (error) {
            if (error instanceof InvalidInput) return false;
            throw error;
        }
        const held = this.earlier.map((nonce) =>
            holds(proof, this.signed("agent", proof.nonce, [], [], nonce)),
        );
        return (await Promise.all(held)).includes(true);
    }

    /** The offer with its proof. */
    async offer(message: Offer): Promise<Offer> {
        return { ...message, proof: await this.prove(message.sdp) };
    }

    /** Check the proof of an answer; null if there is none. Throws `PeerNotTrusted`. */
    async answer(sdp: string, proof: ProofFields | undefined): Promise<Bytes | null> {
        return proof
            ? this.check(
                  proof,
                  readable(() => fingerprints(sdp)),
                  this.ours,
              )
            : null;
    }

    private prove(sdp: string | undefined): Promise<ProofFields> {
        this.ours = sdp === undefined ? [] : fingerprints(sdp);
        return makeProof(this.signer, this.client, this.signed("client", this.agent, this.ours, []));
    }

    private async check(
        given: ProofFields,
        theirs: readonly string[],
        ours: readonly string[],
    ): Promise<Bytes> {
        const proof: Proof = readable(() => parseProof(given));
        const known = this.agent.length === 0 || String(this.agent) === String(proof.nonce);
        const text = this.signed("agent", proof.nonce, theirs, ours);
        if (!(await holds(proof, text)) || !known)
            throw new PeerNotTrusted(`the agent’s proof does not hold: ${BETWEEN}`);
        this.agent = proof.nonce;
        return proof.key;
    }

    private signed(
        role: "client" | "agent",
        agent: Bytes,
        own: readonly string[],
        other: readonly string[],
        client = this.client,
    ): Bytes {
        const prints = [utf8.encode(own.join("\n")), utf8.encode(other.join("\n"))];
        return statement("dtls", utf8.encode(role), ...this.ids, client, agent, ...prints);
    }
}

function randomBytes(size: number): Bytes {
    return crypto.getRandomValues(new Uint8Array(size));
}

function readable<T>(read: () => T): T {
    try {
        return read();
    } catch (error) {
        if (!(error instanceof InvalidInput)) throw error;
        throw new PeerNotTrusted(`what the agent has sent cannot be trusted (${error.message})`);
    }
}
