// Protocol: the sealed channel: what a relay forwards it cannot read, change, repeat or reorder; mirrors protocol/seal.py.
//
// WebCrypto does the arithmetic and answers later, so every step is a promise. The counter of a message is taken when
// `seal` or `open` is called: call them in the order of the messages, and send in the order of the calls.

import { ConnectFailed, InvalidInput, ProtocolError } from "./errors.ts";
import type { Role } from "./frames.ts";
import { type Lane, REQUIRED_LANES } from "./lanes.ts";
import { MAX_FRAME } from "./limits.ts";
import type { Bytes } from "./proof.ts";

export const GREETING_BYTES = 67;
/** Bytes that sealing adds to a frame: lane and authentication tag. */
export const OVERHEAD = 17;
/** Largest proof. */
export const PROOF_BYTES = 4096;

const KEY = 32;
const GREETING = 0x81;
const PROOF = 0x80;
const COUNT = 0x82;
const COUNT_BYTES = 8;
const FAREWELL = 0x83;
/** No counter comes to this. */
const FAREWELL_NONCE = new Uint8Array(12).fill(0xff);
const VERSION = 1;
const ROLE_BYTES: Readonly<Record<Role, number>> = { client: 1, agent: 2 };
/** Messages under one key (SP 800-38D section 8.3). */
const MOST_SEALED = 2 ** 32;

const utf8 = new TextEncoder();
const LABEL = utf8.encode("doorstep seal 1");

/** Who we are and whom we believe. A proof is opaque here. */
export interface Prover {
    /** Our proof, at most `PROOF_BYTES`. */
    sign(transcript: Bytes): Promise<Bytes>;
    /** Rejects with a `DoorstepError` to refuse the peer's proof over its role's transcript. */
    verify(transcript: Bytes, proof: Bytes): Promise<void>;
}

/** What one handshake is made of; never used twice. */
export interface Ephemeral {
    readonly nonce: Bytes;
    /** X25519, raw. */
    readonly publicKey: Bytes;
    readonly privateKey: CryptoKey;
}

const CANNOT_SEAL =
    "this browser cannot use the relay: it lacks X25519, or this page was not opened over HTTPS or on localhost";

/** Throws `ConnectFailed` where the browser has no X25519 or the page is not a secure context. */
export async function makeEphemeral(): Promise<Ephemeral> {
    if (!globalThis.crypto?.subtle) throw new ConnectFailed(CANNOT_SEAL);
    let pair: CryptoKeyPair;
    try {
        pair = (await crypto.subtle.generateKey("X25519", false, ["deriveBits"])) as CryptoKeyPair;
    } catch (error) {
        console.debug("no X25519:", (error as Error).message);
        throw new ConnectFailed(CANNOT_SEAL);
    }
    return {
        nonce: crypto.getRandomValues(new Uint8Array(KEY)),
        publicKey: new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)),
        privateKey: pair.privateKey,
    };
}

/** One side of one handshake. */
export class Handshake {
    private readonly role: Role;
    private readonly ids: readonly [Bytes, Bytes];
    private readonly own: Ephemeral;

    constructor(role: Role, sessionId: string, agentId: string, own: Ephemeral) {
        this.role = role;
        this.ids = [utf8.encode(sessionId), utf8.encode(agentId)];
        this.own = own;
    }

    /** Our first message. */
    greeting(): Bytes {
        return joined(
            Uint8Array.of(GREETING, VERSION, ROLE_BYTES[this.role]),
            this.own.nonce,
            this.own.publicKey,
        );
    }

    /** Take the peer's first message. Throws `ProtocolError`. */
    async complete(greeting: Bytes): Promise<SealedChannel> {
        const [nonce, publicKey] = this.read(greeting);
        const shared = await this.exchange(publicKey);
        const ours = [this.own.nonce, this.own.publicKey];
        const theirs = [nonce, publicKey];
        const sides = this.role === "client" ? [...ours, ...theirs] : [...theirs, ...ours];
        return SealedChannel.make(this.role, shared, [...this.ids, ...sides]);
    }

    private read(greeting: Bytes): readonly [Bytes, Bytes] {
        if (greeting.length !== GREETING_BYTES || greeting[0] !== GREETING)
            throw new ProtocolError("not a greeting", 0);
        if (greeting[1] !== VERSION)
            throw new ProtocolError(`the peer seals by version ${greeting[1]}, not ${VERSION}`, 1);
        if (greeting[2] !== ROLE_BYTES[other(this.role)])
            throw new ProtocolError("the greeting is not of the other role", 2);
        return [greeting.slice(3, 3 + KEY), greeting.slice(3 + KEY)];
    }

    private async exchange(publicKey: Bytes): Promise<Bytes> {
        const key = await crypto.subtle.importKey("raw", publicKey, "X25519", false, []);
        try {
            const algorithm = { name: "X25519", public: key };
            const shared = new Uint8Array(
                await crypto.subtle.deriveBits(algorithm, this.own.privateKey, 8 * KEY),
            );
            if (shared.some((byte) => byte !== 0)) return shared;
        } catch (error) {
            console.debug("X25519:", (error as Error).message);
        }
        // RFC 7748 section 6.1: a key of small order gives a secret of zeros
        throw new ProtocolError("the greeting's key is of small order", 3 + KEY);
    }
}

/**
 * Both directions under the keys of one handshake. The first message each way is the proof.
 *
 * What fails to open (changed, repeated, left out, reordered, cut, of another session) rejects with `ProtocolError`,
 * and nothing opens after it.
 */
export class SealedChannel {
    private readonly role: Role;
    private readonly bound: readonly Bytes[];
    private readonly outward: Direction;
    private readonly inward: Direction;
    private checked = false;
    private proved = false;

    private constructor(role: Role, bound: readonly Bytes[], outward: Direction, inward: Direction) {
        this.role = role;
        this.bound = bound;
        this.outward = outward;
        this.inward = inward;
    }

    static async make(role: Role, shared: Bytes, bound: readonly Bytes[]): Promise<SealedChannel> {
        const secret = await crypto.subtle.importKey("raw", shared, "HKDF", false, ["deriveKey"]);
        const salt = new Uint8Array(await crypto.subtle.digest("SHA-256", fields(LABEL, ...bound)));
        const outward = new Direction(await derive(secret, salt, role, "encrypt"));
        const inward = new Direction(await derive(secret, salt, other(role), "decrypt"));
        return new SealedChannel(role, bound, outward, inward);
    }

    /** The bytes that the proof of `role` signs. */
    transcript(role: Role): Bytes {
        return fields(LABEL, utf8.encode(role), ...this.bound);
    }

    /** Our second message. Called once, before `seal`. */
    async prove(prover: Prover): Promise<Bytes> {
        const proof = await prover.sign(this.transcript(this.role));
        if (proof.length > PROOF_BYTES)
            throw new InvalidInput("proof", `must have at most ${PROOF_BYTES} bytes`);
        return this.outward.seal(PROOF, proof);
    }

    /** Take the peer's second message. Rejects with `ProtocolError` or what `prover` rejects with. */
    async check(message: Bytes, prover: Prover): Promise<void> {
        if (message[0] !== PROOF || this.checked)
            throw new ProtocolError("not the proof, which follows the greeting", 0);
        if (message.length > PROOF_BYTES + OVERHEAD)
            throw new ProtocolError(`a proof has at most ${PROOF_BYTES} bytes`);
        this.checked = true;
        await prover.verify(this.transcript(other(this.role)), await this.inward.open(message));
        this.proved = true;
    }

    /** The message that carries `frame`. */
    seal(lane: Lane, frame: Uint8Array): Promise<Bytes> {
        return this.outward.seal(REQUIRED_LANES.indexOf(lane), frame as Bytes);
    }

    /** The message that says how many bytes of bulk were taken. */
    sealCount(count: number): Promise<Bytes> {
        const bytes = new Uint8Array(COUNT_BYTES);
        new DataView(bytes.buffer).setBigUint64(0, BigInt(count));
        return this.outward.seal(COUNT, bytes);
    }

    /** The message that carries `frame` as the last one, whenever that is. Called once at most. */
    sealFarewell(frame: Uint8Array): Promise<Bytes> {
        return this.outward.sealFarewell(FAREWELL, frame as Bytes);
    }

    /** The next frame of the peer, or its count. Rejects with `ProtocolError`. */
    async open(message: Bytes): Promise<readonly [Lane, Bytes] | number> {
        if (!this.proved) throw new ProtocolError("a frame before the proof", 0);
        if (message.length > MAX_FRAME + OVERHEAD)
            throw new ProtocolError(`a frame has at most ${MAX_FRAME} bytes`);
        if (message[0] === FAREWELL) return ["control", await this.inward.openFarewell(message)];
        const frame = await this.inward.open(message);
        const place = message[0] ?? PROOF;
        if (place === COUNT) {
            if (frame.length !== COUNT_BYTES) throw new ProtocolError(`a count has ${COUNT_BYTES} bytes`);
            return Number(new DataView(frame.buffer).getBigUint64(0));
        }
        const lane = REQUIRED_LANES[place];
        if (lane === undefined) throw new ProtocolError(`${place} is not a lane`, 0);
        return [lane, frame];
    }
}

/** One key and its counter. */
class Direction {
    private readonly key: CryptoKey;
    private count = 0;
    private broken = false;
    private farewell = false;
    private over = false;

    constructor(key: CryptoKey) {
        this.key = key;
    }

    async seal(lane: number, content: Bytes): Promise<Bytes> {
        const mark = Uint8Array.of(lane);
        return this.sealed(mark, this.next(), content);
    }

    /** One key, one farewell: its nonce is always the same. */
    async sealFarewell(lane: number, content: Bytes): Promise<Bytes> {
        if (this.farewell) throw new ProtocolError("this key has sealed its farewell");
        this.farewell = true;
        return this.sealed(Uint8Array.of(lane), FAREWELL_NONCE, content);
    }

    async open(message: Bytes): Promise<Bytes> {
        const number = this.count;
        if (message.length < OVERHEAD || this.broken || this.over) {
            this.broken = true;
            throw new ProtocolError("not a sealed frame");
        }
        const opened = await this.opened(message, this.next());
        if (!opened || this.broken) {
            this.broken = true;
            throw new ProtocolError(`sealed frame ${number} was changed, repeated or left out`);
        }
        return opened;
    }

    /** Whatever it is, it is the last. */
    async openFarewell(message: Bytes): Promise<Bytes> {
        const ended = this.broken || this.over;
        this.over = true;
        if (ended) throw new ProtocolError("a farewell after the end");
        const opened = await this.opened(message, FAREWELL_NONCE);
        if (!opened) throw new ProtocolError("the farewell is not the peer's");
        return opened;
    }

    private async sealed(mark: Bytes, nonce: Bytes, content: Bytes): Promise<Bytes> {
        const sealed = await crypto.subtle.encrypt(parameters(mark, nonce), this.key, content);
        return joined(mark, new Uint8Array(sealed));
    }

    private async opened(message: Bytes, nonce: Bytes): Promise<Bytes | null> {
        const algorithm = parameters(message.subarray(0, 1), nonce);
        try {
            return new Uint8Array(await crypto.subtle.decrypt(algorithm, this.key, message.subarray(1)));
        } catch (error) {
            console.debug("a sealed frame does not open:", (error as Error).name);
            this.broken = true;
            return null;
        }
    }

    private next(): Bytes {
        if (this.count >= MOST_SEALED) throw new ProtocolError("this key has sealed its last frame");
        const nonce = new Uint8Array(12);
        new DataView(nonce.buffer).setBigUint64(4, BigInt(this.count));
        this.count += 1;
        return nonce;
    }
}

function parameters(mark: Bytes, nonce: Bytes): AesGcmParams {
    return { name: "AES-GCM", iv: nonce, additionalData: mark, tagLength: 128 };
}

function derive(secret: CryptoKey, salt: Bytes, role: Role, use: "encrypt" | "decrypt"): Promise<CryptoKey> {
    const info = fields(LABEL, utf8.encode(role));
    const algorithm = { name: "HKDF", hash: "SHA-256", salt, info };
    return crypto.subtle.deriveKey(algorithm, secret, { name: "AES-GCM", length: 8 * KEY }, false, [use]);
}

function other(role: Role): Role {
    return role === "client" ? "agent" : "client";
}

/** Each part as its length in 2 bytes and its bytes. */
function fields(...parts: readonly Bytes[]): Bytes {
    return joined(...parts.flatMap((part) => [Uint8Array.of(part.length >> 8, part.length & 0xff), part]));
}

function joined(...parts: readonly Bytes[]): Bytes {
    const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of parts) {
        bytes.set(part, at);
        at += part.length;
    }
    return bytes;
}
