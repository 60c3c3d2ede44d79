// Tests run in Node: the protocol, the runtime and the adapters need no browser; the browser is driven by tests/e2e.
import { defineConfig } from "vitest/config";

export default defineConfig({
    test: { include: ["test/**/*.test.ts"], environment: "node", testTimeout: 40_000, restoreMocks: true },
});
