// Tests: the vectors that pytest reads too, and bytes as they are written in them.

import { readFileSync } from "node:fs";

export function vectors<T>(name: string): T {
    const path = new URL(`../../protocol/vectors/${name}.json`, import.meta.url);
    return JSON.parse(readFileSync(path, "utf8")) as T;
}

export function fromHex(hex: string): Uint8Array {
    return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

export function toHex(bytes: Uint8Array): string {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A value with its bytes as hex, as the vectors write them. */
export function plain(value: unknown): unknown {
    if (value instanceof Uint8Array) return toHex(value);
    if (Array.isArray(value)) return value.map(plain);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(
        Object.entries(value)
            .filter(([, one]) => one !== undefined)
            .map(([key, one]) => [key, plain(one)]),
    );
}

/** A frame of the vectors with its payload as bytes. */
export function withBytes<T extends { payload?: unknown }>(frame: T): T {
    return typeof frame.payload === "string" ? { ...frame, payload: fromHex(frame.payload) } : frame;
}
