// Build: the page goes into the hub's package, every asset with its hash, nothing inline (strict CSP).
import { defineConfig } from "vite";

const hub = process.env.DOORSTEP_URL ?? "http://127.0.0.1:8420";

export default defineConfig({
    base: "/",
    oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
    build: {
        outDir: "../hub/doorstep/hub/_web",
        emptyOutDir: true,
        target: "es2023",
        assetsInlineLimit: 0, // a data: URL would need its own line in the policy
        modulePreload: { polyfill: false },
        chunkSizeWarningLimit: 800,
    },
    server: {
        host: "127.0.0.1",
        proxy: Object.fromEntries(
            ["/config.json", "/auth", "/rest", "/realtime", "/relay"].map((path) => [
                path,
                { target: hub, ws: true },
            ]),
        ),
    },
});
