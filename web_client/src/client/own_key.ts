// Client: this browser's own key: Ed25519 of WebCrypto, in IndexedDB, in a form that cannot be taken out.

import type { Bytes, Signer } from "../protocol/proof.ts";

const DATABASE = "doorstep";
const STORE = "keys";
const NAME = "client";

/** The key, made at the first call; null where the browser has no Ed25519 or the page is not a secure context. */
export async function ownKey(): Promise<Signer | null> {
    if (!globalThis.crypto?.subtle) return null;
    let made: CryptoKeyPair;
    try {
        made = (await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"])) as CryptoKeyPair;
    } catch (error) {
        console.warn("no Ed25519:", (error as Error).message);
        return null;
    }
    return signer(await kept(made));
}

export async function signer(pair: CryptoKeyPair): Promise<Signer> {
    return {
        key: new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)),
        sign: async (text: Bytes) =>
            new Uint8Array(await crypto.subtle.sign("Ed25519", pair.privateKey, text)),
    };
}

/** The pair that is kept already, else `made`, which is kept from now on, as far as this browser keeps things. */
async function kept(made: CryptoKeyPair): Promise<CryptoKeyPair> {
    try {
        const database = await done(opening());
        try {
            const store = database.transaction(STORE, "readwrite").objectStore(STORE);
            const known = (await done(store.get(NAME))) as CryptoKeyPair | undefined;
            if (known) return known;
            await done(store.put(made, NAME));
        } finally {
            database.close();
        }
    } catch (error) {
        console.warn("this browser keeps no key:", (error as Error).message);
    }
    return made;
}

function opening(): IDBOpenDBRequest {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    return request;
}

function done<T>(request: IDBRequest<T>): Promise<T> {
    return new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
    });
}
