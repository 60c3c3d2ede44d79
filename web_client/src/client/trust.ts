// Client: whom one connection believes: our key, the key we know of the agent, the key the back end names.

import { InvalidInput, PeerNotTrusted } from "../protocol/errors.ts";
import {
    type Bytes,
    keyFingerprint,
    parseKey,
    type Signer,
    signTranscript,
    toBase64,
    verifyTranscript,
} from "../protocol/proof.ts";
import type { Prover } from "../protocol/seal.ts";
import type { ConnectionRequest, Offer, ProofFields } from "../protocol/signaling.ts";
import { ClientProofs } from "../protocol/trust.ts";
import type { Key, KnownAgents, Stranger } from "./known.ts";

export const CANNOT_CHECK =
    "This browser cannot check the machine’s key: it lacks Ed25519, or this page was not opened over HTTPS or on localhost.";

export interface Introduced extends Stranger {
    /** What the agent's row says. */
    readonly publicKey: string | null;
}

export class Trust {
    private proofs: Promise<ClientProofs | null> | null = null;
    /** The agent's key in this session: null: it proves none; undefined: not met yet. */
    private met: string | null | undefined;
    private readonly sessionId: string;
    private readonly ownKey: () => Promise<Signer | null>;
    private readonly introduced: () => Introduced;
    private readonly known: KnownAgents;

    /** `introduced` is asked anew at every attempt. */
    constructor(
        sessionId: string,
        ownKey: () => Promise<Signer | null>,
        known: KnownAgents,
        introduced: () => Introduced,
    ) {
        this.sessionId = sessionId;
        this.ownKey = ownKey;
        this.known = known;
        this.introduced = introduced;
    }

    /** The fingerprint that is known, or why there is none, for those who look. */
    async inWords(): Promise<string> {
        if (!(await this.opened())) return CANNOT_CHECK;
        return this.known.search(this.stranger())?.fingerprint ?? "unknown: this agent proves none";
    }

    /** The changed key that was refused, if one was. */
    get refused(): Key | null {
        return this.known.search(this.stranger())?.refused ?? null;
    }

    /** Pin the changed key that was refused. Only ever by the user's explicit wish. */
    accept(): void {
        this.met = undefined;
        this.known.accept(this.stranger());
    }

    /** The request with our proof. Throws `PeerNotTrusted` if the back end names another key than the known one. */
    async request(message: ConnectionRequest): Promise<ConnectionRequest> {
        const proofs = await this.opened();
        if (!proofs) {
            if (this.known.find(this.stranger())) throw new PeerNotTrusted(CANNOT_CHECK);
            return message;
        }
        const named = await this.named();
        if (named) this.known.check(this.stranger(), named, false);
        return proofs.request(message);
    }

    /** Whether a `connection-ready` that answers no offer is for an earlier knock of ours. */
    async isLate(ready: ProofFields | undefined): Promise<boolean> {
        return (await (await this.opened())?.isLate(ready)) ?? false;
    }

    /** Check the proof of the `connection-ready` that asks for it; the offer with ours. */
    async offer(message: Offer, ready: ProofFields | undefined): Promise<Offer> {
        const proofs = await this.opened();
        if (!proofs) return message;
        const shown = await proofs.ready(ready);
        if (shown) this.known.check(this.stranger(), await described(shown), false);
        return proofs.offer(message);
    }

    /** Resolves if the answer comes from the agent that is meant; pins its key at the first contact. */
    async answer(sdp: string, proof: ProofFields | undefined): Promise<void> {
        const proofs = await this.opened();
        if (proofs) await this.judge(await proofs.answer(sdp, proof));
    }

    /** The same for a wire whose handshake has a transcript that both sides sign. */
    prover(): Prover {
        return {
            sign: async (transcript) => {
                const signer = await this.ownKey();
                if (!signer && this.known.find(this.stranger())) throw new PeerNotTrusted(CANNOT_CHECK);
                return signer ? signTranscript(signer, transcript) : new Uint8Array();
            },
            verify: async (transcript, proof) => {
                if (!(await this.ownKey())) return;
                await this.judge(proof.length > 0 ? await verifyTranscript(transcript, proof) : null);
            },
        };
    }

    /** `shown` is the key that the agent has proved, if any. */
    private async judge(shown: Bytes | null): Promise<void> {
        const { name } = this.introduced();
        const key = shown && (await described(shown));
        const [pin, named] = [this.known.find(this.stranger()), await this.named()];
        if (pin && key) this.known.check(this.stranger(), key, false);
        if (this.met !== undefined && this.met !== (key?.key ?? null))
            throw new PeerNotTrusted(
                `the session began with another key than ${name} shows now, so it was ended`,
            );
        if (!key) {
            const expected = pin ?? named;
            if (!expected) {
                this.met = null;
                return;
            }
            throw new PeerNotTrusted(
                `the agent came without a proof, but ${name} has the key ${expected.fingerprint}, so the connection was refused`,
                expected.fingerprint,
            );
        }
        if (!pin && named && named.key !== key.key)
            throw new PeerNotTrusted(
                `${name} proves another key than the back end says it has, so the connection was refused. Named: ${named.fingerprint}. Shown: ${key.fingerprint}.`,
                named.fingerprint,
                key.fingerprint,
            );
        this.known.check(this.stranger(), key, true);
        this.met = key.key;
    }

    private opened(): Promise<ClientProofs | null> {
        this.proofs ??= this.ownKey().then(
            (signer) => signer && new ClientProofs(signer, this.introduced().id, this.sessionId),
        );
        return this.proofs;
    }

    private stranger(): Stranger {
        const { backend, id, name } = this.introduced();
        return { backend, id, name };
    }

    private async named(): Promise<Key | null> {
        const { publicKey, name } = this.introduced();
        if (publicKey === null) return null;
        try {
            return await described(parseKey(publicKey));
        } catch (error) {
            if (!(error instanceof InvalidInput)) throw error;
            throw new PeerNotTrusted(`the key that the back end names for ${name} is none`);
        }
    }
}

async function described(key: Bytes): Promise<Key> {
    return { key: toBase64(key), fingerprint: await keyFingerprint(key) };
}
