// Protocol: Ed25519 keys, their fingerprints, and the proof of who speaks (docs/wire.md §8); mirrors protocol/proof.py.

import { InvalidInput, PeerNotTrusted } from "./errors.ts";
import { FINGERPRINTS, SDP_BYTES } from "./limits.ts";
import type { ProofFields } from "./signaling.ts";

export const KEY_BYTES = 32;
export const NONCE_BYTES = 16;
const SIGNATURE_BYTES = 64;
/** Groups of four hex digits that are shown: 128 bits. */
const GROUPS = 8;
/** Points of order 1, 2, 4 and 8 without the sign bit, as hex; as keys they are nobody's (protocol/proof.py). */
const SMALL_ORDER: ReadonlySet<string> = new Set([
    "00".repeat(32),
    `01${"00".repeat(31)}`,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    `ec${"ff".repeat(30)}7f`,
    `ed${"ff".repeat(30)}7f`,
    `ee${"ff".repeat(30)}7f`,
]);
const LABEL = "doorstep proof 1";
const LINE = /^a=fingerprint:(sha-256|sha-384|sha-512) ([0-9A-F]{2}(?::[0-9A-F]{2}){31,63})[ \t]*$/i;
const BASE64URL = /^[A-Za-z0-9_-]*$/;

export type Bytes = Uint8Array<ArrayBuffer>;

/** A key pair whose private half stays where it is. */
export interface Signer {
    /** The public key. */
    readonly key: Bytes;
    sign(text: Bytes): Promise<Bytes>;
}

export interface Proof {
    readonly key: Bytes;
    /** The signer's own. */
    readonly nonce: Bytes;
    readonly signature: Bytes;
}

const utf8 = new TextEncoder();

/** The bytes that are signed: label, purpose and parts, each as its length in 4 bytes and its bytes. */
export function statement(purpose: string, ...parts: readonly Bytes[]): Bytes {
    const all = [utf8.encode(LABEL), utf8.encode(purpose), ...parts];
    const bytes = new Uint8Array(all.reduce((size, part) => size + 4 + part.length, 0));
    const view = new DataView(bytes.buffer);
    let at = 0;
    for (const part of all) {
        view.setUint32(at, part.length);
        bytes.set(part, at + 4);
        at += 4 + part.length;
    }
    return bytes;
}

/** Every certificate fingerprint of a description, normalised, sorted, each once. Throws `InvalidInput`, field `sdp`. */
export function fingerprints(sdp: string): string[] {
    if (sdp.length > SDP_BYTES) throw new InvalidInput("sdp", `must have at most ${SDP_BYTES} bytes`);
    const known = new Set<string>();
    for (const line of sdp.split(/[\r\n]/)) {
        if (!line.toLowerCase().includes("fingerprint")) continue;
        const [, algorithm, digest] = LINE.exec(line) ?? [];
        if (!algorithm || !digest) throw new InvalidInput("sdp", "has a fingerprint that cannot be read");
        known.add(`${algorithm.toLowerCase()} ${digest.toUpperCase()}`);
    }
    if (known.size === 0) throw new InvalidInput("sdp", "has no fingerprint");
    if (known.size > FINGERPRINTS)
        throw new InvalidInput("sdp", `has more than ${FINGERPRINTS} fingerprints`);
    return [...known].sort();
}

/** Read the JSON form; unknown fields are ignored. Throws `InvalidInput`, naming the field. */
export function parseProof(given: ProofFields): Proof {
    for (const field of ["key", "nonce", "signature"]) {
        if (!Object.hasOwn(given, field)) throw new InvalidInput(field, "is required in a proof");
    }
    return {
        key: parseKey(given.key ?? ""),
        nonce: fromBase64("nonce", given.nonce ?? "", NONCE_BYTES),
        signature: fromBase64("signature", given.signature ?? "", SIGNATURE_BYTES),
    };
}

/** Sign a statement; `nonce` is the signer's own. */
export async function makeProof(signer: Signer, nonce: Bytes, text: Bytes): Promise<ProofFields> {
    const signature = await signer.sign(text);
    return { key: toBase64(signer.key), nonce: toBase64(nonce), signature: toBase64(signature) };
}

/** Whether the proof's key has signed exactly this statement. */
export async function holds(proof: Proof, text: Bytes): Promise<boolean> {
    try {
        const key = await crypto.subtle.importKey("raw", proof.key, "Ed25519", false, ["verify"]);
        return await crypto.subtle.verify("Ed25519", key, proof.signature, text);
    } catch (error) {
        console.debug("not a key:", (error as Error).message); // not a point of the curve
        return false;
    }
}

/** Read a public key. Throws `InvalidInput`, field `key`. */
export function parseKey(text: string): Bytes {
    const key = fromBase64("key", text, KEY_BYTES);
    if (isSmallOrder(key)) throw new InvalidInput("key", "is a point of small order, which is nobody’s key");
    return key;
}

function isSmallOrder(key: Bytes): boolean {
    return SMALL_ORDER.has(
        toHex(Uint8Array.from(key, (byte, at) => (at === KEY_BYTES - 1 ? byte & 0x7f : byte))),
    );
}

/** The first 128 bits of the SHA-256 of a public key, as people compare them. */
export async function keyFingerprint(key: Bytes): Promise<string> {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", key));
    const hex = toHex(digest);
    return Array.from({ length: GROUPS }, (_, group) => hex.slice(4 * group, 4 * group + 4)).join(" ");
}

function toHex(bytes: Bytes): string {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function toBase64(bytes: Bytes): string {
    return btoa(String.fromCharCode(...bytes))
        .replaceAll("+", "-")
        .replaceAll("/", "_")
        .replaceAll("=", "");
}

/** Only the one right way to write the bytes is taken. */
function fromBase64(field: string, text: string, size: number): Bytes {
    const wrong = new InvalidInput(field, `must be ${size} bytes in base64url without padding`);
    if (!BASE64URL.test(text) || text.length % 4 === 1) throw wrong;
    const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(raw, (character) => character.charCodeAt(0));
    if (bytes.length !== size || toBase64(bytes) !== text) throw wrong;
    return bytes;
}

/** Prove who we are in the relay's handshake: our public key and the signature, 96 bytes. */
export async function signTranscript(signer: Signer, transcript: Bytes): Promise<Bytes> {
    const signature = await signer.sign(statement("relay", transcript));
    return new Uint8Array([...signer.key, ...signature]);
}

/** The key that has signed this transcript. Throws `PeerNotTrusted`. */
export async function verifyTranscript(transcript: Bytes, proof: Bytes): Promise<Bytes> {
    if (proof.length !== KEY_BYTES + SIGNATURE_BYTES)
        throw new PeerNotTrusted("the relay’s peer sent no proof of who it is");
    const key = proof.slice(0, KEY_BYTES);
    if (isSmallOrder(key)) throw new PeerNotTrusted("the relay’s peer shows a key that is nobody’s");
    const signature = proof.slice(KEY_BYTES);
    if (!(await holds({ key, nonce: new Uint8Array(), signature }, statement("relay", transcript))))
        throw new PeerNotTrusted("the proof of the relay’s peer does not hold: somebody is between the two");
    return key;
}
