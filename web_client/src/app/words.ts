// App: errors and states in words, with what to do.

import {
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    DoorstepError,
    NotSignedIn,
    PeerNotTrusted,
    SessionClosed,
    SignalingLost,
    Unauthorized,
} from "../protocol/errors.ts";

export interface Notice {
    readonly title: string;
    readonly advice: string;
}

export function inWords(error: unknown): Notice {
    if (error instanceof AgentUnreachable)
        return {
            title: "Agent offline or not responding",
            advice: "Is the machine switched on and online? Start the agent there with “doorstep agent”, then try again.",
        };
    if (error instanceof ConnectionRefused)
        return {
            title: "The machine said no",
            advice: `${error.message}.${error.retryAfter ? ` Try again in ${Math.ceil(error.retryAfter)} s.` : ""}`,
        };
    if (error instanceof PeerNotTrusted)
        return {
            title:
                error.known && error.shown ? "This machine’s key has changed" : "This machine is not trusted",
            advice: `${sentence(error.message)} Nothing was exchanged with it. Somebody may stand between you and your machine.`,
        };
    if (error instanceof Unauthorized)
        return {
            title: "Not allowed",
            advice: "This machine belongs to another account. Sign in as its owner.",
        };
    if (error instanceof NotSignedIn) return { title: "You are signed out", advice: error.message };
    if (error instanceof SignalingLost)
        return {
            title: "The back end is not reachable",
            advice: "Check this device’s network, then try again.",
        };
    if (error instanceof ConnectFailed || error instanceof DeadlineExceeded)
        return {
            title: "No path to the machine",
            advice: `Both are online, but the networks between them let nothing through: ${sentence(error.message)} The hub’s relay or a TURN server would help.`,
        };
    if (error instanceof SessionClosed)
        return { title: "Session ended", advice: `${sentence(error.reason)} Reconnect to go on.` };
    if (error instanceof DoorstepError)
        return { title: "That did not work", advice: sentence(error.message) };
    return {
        title: "Something went wrong",
        advice: sentence(error instanceof Error ? error.message : String(error)),
    };
}

/** What the steps of a connection mean. */
export const STEPS: readonly (readonly [state: string, meaning: string])[] = [
    ["requesting", "Knocking at the machine’s door"],
    ["waiting-ready", "Waiting for it to answer"],
    ["creating-offer", "Describing this browser to it"],
    ["waiting-answer", "Waiting for its description"],
    ["connecting", "Finding a path, encrypted end to end"],
    ["connected", "You are in"],
];

/** “seen 5 minutes ago”. */
export function since(iso: string | null, now = Date.now()): string {
    if (!iso) return "never seen";
    const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
    if (!Number.isFinite(seconds)) return "";
    const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
    for (const [unit, size] of [
        ["day", 86_400],
        ["hour", 3600],
        ["minute", 60],
    ] as const) {
        if (seconds >= size) return `seen ${format.format(-Math.floor(seconds / size), unit)}`;
    }
    return "seen just now";
}

function sentence(text: string): string {
    const whole = text.charAt(0).toUpperCase() + text.slice(1);
    return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
