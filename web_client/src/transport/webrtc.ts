// Transport, layer 0: a wire over RTCPeerConnection, one DataChannel per lane (W3C WebRTC; RFC 8831).

import { ConnectFailed, ProtocolError, WireClosed } from "../protocol/errors.ts";
import { decode, encode, type Frame } from "../protocol/frames.ts";
import { type Lane, REQUIRED_LANES } from "../protocol/lanes.ts";
import {
    CANDIDATES_PER_SESSION,
    LANE_HIGH_WATER,
    LANE_LIMIT,
    LANE_LOW_WATER,
    MAX_FRAME,
} from "../protocol/limits.ts";
import type { IceCandidate } from "../protocol/signaling.ts";
import type { Timing } from "../protocol/timing.ts";
import type { Receiver, Wire, WireStats } from "./wire.ts";

/** Frames kept between the lanes opening and `start()`: the greeting and little more. */
const EARLY_FRAMES = 64;
/** Fewer checks of the path than this say nothing about loss. */
const FEW_CHECKS = 10;

/** One peer connection of the page, which always makes the offer and the lanes. */
export class Peer {
    /** Called for each local candidate found after the offer was handed out. */
    onCandidate: ((candidate: IceCandidate) => void) | null = null;

    private readonly connection: RTCPeerConnection;
    private readonly channels = new Map<Lane, RTCDataChannel>();
    private readonly timing: Timing;
    private readonly made: WebRtcWire;
    private early: RTCIceCandidateInit[] = [];
    private offered = false;

    /** `iceServers` is always explicit: an empty list is a list. */
    constructor(
        iceServers: readonly RTCIceServer[],
        timing: Timing,
        iceTransportPolicy: RTCIceTransportPolicy = "all",
    ) {
        this.timing = timing;
        this.connection = new RTCPeerConnection({
            iceServers: [...iceServers],
            iceTransportPolicy,
            bundlePolicy: "max-bundle",
        });
        for (const lane of REQUIRED_LANES) {
            const channel = this.connection.createDataChannel(lane, { ordered: true });
            channel.binaryType = "arraybuffer";
            channel.bufferedAmountLowThreshold = LANE_LOW_WATER;
            this.channels.set(lane, channel);
        }
        this.made = new WebRtcWire(this.connection, this.channels);
        this.connection.onicecandidate = ({ candidate }) => this.found(candidate);
    }

    /** The offer's SDP with the candidates found within `timing.gather`; later ones go to `onCandidate`. */
    async createOffer(): Promise<string> {
        await this.connection.setLocalDescription(await this.connection.createOffer());
        await this.gathered();
        this.offered = true;
        return this.connection.localDescription?.sdp ?? "";
    }

    /** Set the answer, then whatever candidates came before it. */
    async applyAnswer(sdp: string): Promise<void> {
        try {
            await this.connection.setRemoteDescription({ type: "answer", sdp });
        } catch (error) {
            throw new ConnectFailed(`the answer was not accepted: ${(error as Error).message}`);
        }
        const kept = this.early;
        this.early = [];
        for (const candidate of kept) await this.add(candidate);
    }

    /** Kept until the remote description is set; "" marks the end. */
    async addCandidate(candidate: IceCandidate): Promise<void> {
        if (this.connection.remoteDescription) await this.add({ ...candidate });
        else if (this.early.length < CANDIDATES_PER_SESSION) this.early.push({ ...candidate });
    }

    /** Resolves when ICE, DTLS and all lanes are up. Rejects `ConnectFailed` when they cannot come up. */
    async wire(): Promise<WebRtcWire> {
        await this.made.opened;
        return this.made;
    }

    close(): void {
        this.connection.onicecandidate = null;
        this.onCandidate = null;
        this.made.close();
    }

    private found(candidate: RTCIceCandidate | null): void {
        if (!candidate || !this.offered) return;
        const { sdpMid, sdpMLineIndex, usernameFragment } = candidate;
        this.onCandidate?.({
            candidate: candidate.candidate,
            sdpMid,
            ...(sdpMLineIndex === null ? {} : { sdpMLineIndex }),
            ...(usernameFragment === null ? {} : { usernameFragment }),
        });
    }

    private gathered(): Promise<void> {
        const { connection, timing } = this;
        if (connection.iceGatheringState === "complete") return Promise.resolve();
        return new Promise((resolve) => {
            const done = () => {
                clearTimeout(timer);
                connection.removeEventListener("icegatheringstatechange", changed);
                resolve();
            };
            const changed = () => connection.iceGatheringState === "complete" && done();
            const timer = setTimeout(done, timing.gather * 1000);
            connection.addEventListener("icegatheringstatechange", changed);
        });
    }

    private async add(candidate: RTCIceCandidateInit): Promise<void> {
        try {
            await this.connection.addIceCandidate(candidate);
        } catch (error) {
            console.warn("candidate not usable:", (error as Error).message);
        }
    }
}

export class WebRtcWire implements Wire {
    readonly kind = "webrtc";
    readonly closed: Promise<string>;
    /** Resolves when every lane is open; rejects `ConnectFailed`. */
    readonly opened: Promise<void>;

    private receiver: Receiver | null = null;
    private early: [Lane, Frame][] = [];
    private over = false;
    private end: (reason: string) => void = () => undefined;
    private readonly waiting = new Set<() => void>();
    private readonly connection: RTCPeerConnection;
    private readonly channels: ReadonlyMap<Lane, RTCDataChannel>;

    constructor(connection: RTCPeerConnection, channels: ReadonlyMap<Lane, RTCDataChannel>) {
        this.connection = connection;
        this.channels = channels;
        this.closed = new Promise((resolve) => {
            this.end = resolve;
        });
        this.opened = new Promise((resolve, reject) => {
            let missing = channels.size;
            for (const [lane, channel] of channels) {
                channel.onopen = () => {
                    missing -= 1;
                    if (missing === 0) resolve();
                };
                channel.onmessage = ({ data }) => this.arrived(lane, data);
                channel.onclose = () => this.close("the peer closed the connection");
                channel.onbufferedamountlow = () => this.wake();
            }
            connection.onconnectionstatechange = () => {
                if (connection.connectionState === "failed") this.close("no path to the machine is left");
            };
            void this.closed.then((reason) => reject(new ConnectFailed(reason)));
        });
        this.opened.catch(() => undefined); // seen by whoever calls Peer.wire(); a late close is no unhandled error
    }

    get maxFrame(): number {
        return Math.min(MAX_FRAME, this.connection.sctp?.maxMessageSize ?? MAX_FRAME);
    }

    start(receiver: Receiver): void {
        this.receiver = receiver;
        const early = this.early;
        this.early = [];
        for (const [lane, frame] of early) receiver(lane, frame);
    }

    send(lane: Lane, frame: Frame): void {
        const channel = this.channels.get(lane);
        if (this.over || channel?.readyState !== "open") throw new WireClosed("the connection is closed");
        const bytes = encode(frame);
        if (channel.bufferedAmount > LANE_LIMIT) this.close(`the peer does not read: lane ${lane} is full`);
        try {
            channel.send(bytes);
        } catch (error) {
            throw new WireClosed((error as Error).message); // closed a moment ago, or full
        }
    }

    async drained(lane: Lane): Promise<void> {
        while (!this.over && this.congested(lane)) {
            await new Promise<void>((resolve) => this.waiting.add(resolve));
        }
        if (this.over) throw new WireClosed("the connection is closed");
    }

    close(reason = "closed"): void {
        if (this.over) return;
        this.over = true;
        this.connection.close();
        this.wake();
        this.end(reason);
    }

    async stats(): Promise<WireStats> {
        const report = await this.connection.getStats();
        let bytesSent = 0;
        let bytesReceived = 0;
        let more: Pick<WireStats, "path" | "turn" | "roundTrip" | "loss"> = {};
        for (const entry of report.values()) {
            if (entry.type !== "candidate-pair" || !entry.nominated || entry.state !== "succeeded") continue;
            bytesSent += entry.bytesSent;
            bytesReceived += entry.bytesReceived;
            const [local, remote] = [entry.localCandidateId, entry.remoteCandidateId].map((id) =>
                report.get(id),
            );
            const ends = [local?.candidateType ?? "?", remote?.candidateType ?? "?"];
            const protocol = String(local?.relayProtocol ?? local?.protocol ?? "").toUpperCase();
            more = {
                path: [ends.join(" → "), protocol].filter(Boolean).join(", "),
                turn: ends.includes("relay"),
                roundTrip: (entry.currentRoundTripTime ?? 0) * 1000,
                ...checksLost(entry),
            };
        }
        let buffered = 0;
        for (const channel of this.channels.values()) buffered += channel.bufferedAmount;
        return { kind: this.kind, bytesSent, bytesReceived, buffered, ...more };
    }

    /** Over its own high-water mark, or a more urgent lane is over its own: bulk never delays a keystroke. */
    private congested(lane: Lane): boolean {
        for (const other of REQUIRED_LANES) {
            const channel = this.channels.get(other);
            if (channel && channel.bufferedAmount > (other === lane ? LANE_LOW_WATER : LANE_HIGH_WATER))
                return true;
            if (other === lane) return false;
        }
        return false;
    }

    private wake(): void {
        const waiting = [...this.waiting];
        this.waiting.clear();
        for (const resolve of waiting) resolve();
    }

    private arrived(lane: Lane, data: unknown): void {
        let frame: Frame | null;
        try {
            if (!(data instanceof ArrayBuffer)) throw new ProtocolError("text where a frame was expected");
            frame = decode(new Uint8Array(data));
        } catch (error) {
            this.close((error as Error).message);
            return;
        }
        if (!frame) return;
        if (this.receiver) this.receiver(lane, frame);
        else if (this.early.length < EARLY_FRAMES) this.early.push([lane, frame]);
        else this.close("too many frames before the greeting");
    }
}

/** A browser counts no lost packets of data channels, but the answers to its checks of the path (RFC 7675). */
function checksLost(pair: { requestsSent?: number; responsesReceived?: number }): { loss?: number } {
    const { requestsSent = 0, responsesReceived = 0 } = pair;
    if (requestsSent < FEW_CHECKS) return {};
    return { loss: Math.max(0, requestsSent - 1 - responsesReceived) / requestsSent }; // one may be on its way
}
