// App: which agent is open, kept in the address (#/agent/ID) so that a reload comes back. Never a secret.

import { Observable } from "../runtime/observable.ts";

const AGENT = /^#\/agent\/([0-9a-f-]{36})$/;

export const openAgent = new Observable<string | null>(null);

export function startRoute(): void {
    const read = () => openAgent.set(AGENT.exec(location.hash)?.[1] ?? null);
    addEventListener("hashchange", read);
    read();
}

export function goTo(agentId: string | null): void {
    location.hash = agentId ? `#/agent/${agentId}` : "#/";
}

/**
 * Take a one-time sign-in token out of the address. It must be gone from the address bar and the history before
 * anything else runs, so this is the first thing the page does.
 */
export function takeSignInToken(): string | null {
    const fragment = new URLSearchParams(location.hash.slice(1));
    const token = fragment.get("token_hash");
    if (token === null) return null;
    history.replaceState(null, "", location.pathname + location.search);
    return token;
}
