// Tests: a key from a seed (RFC 8032), which WebCrypto takes in PKCS #8 (RFC 8410) only.

import type { Signer } from "../src/protocol/proof.ts";

const PREFIX = Uint8Array.from([48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32]);

export async function seeded(seed: Uint8Array): Promise<Signer> {
    const pkcs8 = new Uint8Array([...PREFIX, ...seed]);
    const key = await crypto.subtle.importKey("pkcs8", pkcs8, "Ed25519", true, ["sign"]);
    const { x } = await crypto.subtle.exportKey("jwk", key);
    const raw = atob((x ?? "").replaceAll("-", "+").replaceAll("_", "/"));
    return {
        key: Uint8Array.from(raw, (character) => character.charCodeAt(0)),
        sign: async (text) => new Uint8Array(await crypto.subtle.sign("Ed25519", key, text)),
    };
}
