// Tests: an X25519 key from its bytes (RFC 7748), which WebCrypto takes in PKCS #8 (RFC 8410) only.

import type { Bytes } from "../src/protocol/proof.ts";
import type { Ephemeral } from "../src/protocol/seal.ts";

const PREFIX = Uint8Array.from([48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 110, 4, 34, 4, 32]);

/** As the vectors write it: the nonce and the private key, 32 bytes each. */
export async function fromRandom(random: Uint8Array): Promise<Ephemeral> {
    const pkcs8 = new Uint8Array([...PREFIX, ...random.slice(32)]);
    const privateKey = await crypto.subtle.importKey("pkcs8", pkcs8, "X25519", true, ["deriveBits"]);
    const { x } = await crypto.subtle.exportKey("jwk", privateKey);
    const publicKey = new Uint8Array(Buffer.from(x ?? "", "base64url"));
    return { nonce: random.slice(0, 32) as Bytes, publicKey, privateKey };
}
