// Protocol: the lanes of a wire, which are the labels of its DataChannels (W3C WebRTC, RTCDataChannel.label).

/** Ordered and reliable, from the most to the least urgent; a wire is up when all are open. */
export const REQUIRED_LANES = ["control", "terminal-io", "browser-stream", "file-transfer"] as const;

export type Lane = (typeof REQUIRED_LANES)[number];

export function isLane(label: string): label is Lane {
    return (REQUIRED_LANES as readonly string[]).includes(label);
}
