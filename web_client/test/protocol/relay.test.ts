// The relay's own words, and where it may be.

import { describe, expect, it } from "vitest";
import { InvalidInput, ProtocolError } from "../../src/protocol/errors.ts";
import { dump, parseNotice, relayUrl } from "../../src/protocol/relay.ts";

describe("relay", () => {
    it("notices are read", () => {
        for (const notice of [
            { event: "waiting", seconds: 20 },
            { event: "paired", tokenSeconds: 3600.5, maxMessage: 262161, more: "ignored" },
            { event: "renewed", tokenSeconds: 3600 },
        ])
            expect(parseNotice(JSON.stringify(notice))).toEqual(notice);
    });

    it.each([
        "",
        "nonsense",
        "null",
        "7",
        "[]",
        "{}",
        '{"event":"paired"}',
        '{"event":"waiting","seconds":"20"}',
        '{"event":"paired","tokenSeconds":1}',
        '{"event":"join"}',
        '{"event":"constructor"}',
    ])("refused: %s", (text) => {
        expect(() => parseNotice(text)).toThrow(ProtocolError);
    });

    it("what is said to it", () => {
        expect(JSON.parse(dump({ event: "token", token: "t" }))).toEqual({ event: "token", token: "t" });
    });

    it.each([
        ["http://127.0.0.1:8787", undefined, "ws://127.0.0.1:8787/relay/v1"],
        ["https://hub.example/", undefined, "wss://hub.example/relay/v1"],
        ["https://hub.example/below/", "/relay/v1", "wss://hub.example/below/relay/v1"],
        ["https://hub.example", "wss://relay.example", "wss://relay.example/relay/v1"],
        ["https://hub.example", "http://relay.example:8788/else", "ws://relay.example:8788/else"],
        ["https://hub.example", "https://[::1]:8788/", "wss://[::1]:8788/relay/v1"],
    ])("%s, %s → %s", (backend, relay, url) => {
        expect(relayUrl(backend, relay)).toBe(url);
    });

    it.each([
        "ftp://relay.example",
        "relay.example",
        "wss://u:p@relay.example",
        "wss://r.example/?t=1",
        "ws://",
    ])("no relay: %s", (relay) => {
        expect(() => relayUrl("https://hub.example", relay)).toThrow(InvalidInput);
    });
});
