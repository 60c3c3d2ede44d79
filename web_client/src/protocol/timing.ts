// Protocol: every wait, in seconds, as protocol/timing.py names it. Only those the page needs.

export interface Timing {
    /** A channel join. A refusal takes a real server 5 s, so this is longer than `ready`. */
    readonly join: number;
    /** From `connection-request` sent to `connection-ready`. */
    readonly ready: number;
    /** From `offer` sent to `answer`. */
    readonly answer: number;
    /** From the answer applied to every required lane open and the session greeted. */
    readonly ice: number;
    /** The deadline over all attempts of one connect. */
    readonly total: number;
    /** Between two attempts: fixed, no back-off. */
    readonly retryPause: number;
    /** ICE gathering before the description goes out; late candidates follow. */
    readonly gather: number;
    /** An offer waits this long for the back end's ICE servers. */
    readonly iceServers: number;
    /** A knock without an offer waits this long for the offer, which makes it needless. */
    readonly earlyKnock: number;
    /** A lone presence leave counts only after this: an update is a leave and a join. */
    readonly presenceDebounce: number;
    /** First pause of the Realtime supervisor; doubles, with full jitter. */
    readonly reconnectFirst: number;
    /** Longest pause of the Realtime supervisor. */
    readonly reconnectCap: number;
    /** A wire idle for this long carries a PING. */
    readonly ping: number;
    /** Nothing received for this long: the wire of a session that can resume is lost; any other is stalled. */
    readonly silence: number;
    /** Nothing received for this long: the wire of a session that cannot resume is lost, and it with it. */
    readonly giveUp: number;
    /** The page woke or the network changed: a wire that does not answer within this is replaced. */
    readonly wake: number;
    /** While a session runs over a wire that is not the best: until the better ones are tried again. */
    readonly improveFirst: number;
    /** Longest pause between such trials; each is twice the one before. */
    readonly improveCap: number;
    /** A session is kept this long without a wire; then it ends. */
    readonly keep: number;
    /** From the start of a relay's socket to its word that it waits; and again for the sealed handshake. */
    readonly relayOpen: number;
    /** From joining the relay to the other side being there. */
    readonly relayWait: number;
    /** From a ready that promises to come by a road to the agent being there, once nobody knocks any more. */
    readonly promise: number;
    /** The other roads get this long before a wire over broadcasts, which costs quota, is opened at all. */
    readonly broadcastPause: number;
    /** A relay that has neither brought a wire nor failed after this long more is not waited for. */
    readonly broadcastAfter: number;
    /** From joining the topic of a broadcast wire to the other side being there. */
    readonly broadcastWait: number;
    /** The sealed handshake over broadcasts, a lost message or two included. */
    readonly broadcastOpen: number;
    /** What is to be sent waits so long for more: keystrokes of one moment are one message. */
    readonly broadcastSlot: number;
    /** An acknowledgement waits so long for a message to ride on. */
    readonly broadcastAcknowledge: number;
    /** Unacknowledged for this long, or for the usual round trip if that is more: sent again; then doubled. */
    readonly broadcastResend: number;
    /** Longest of these waits. */
    readonly broadcastResendCap: number;
    /** Default deadline of a CALL. */
    readonly call: number;
    /** An orderly end: the peer's last frames on a wire that is being left. */
    readonly shutdown: number;
}

export const DEFAULT_TIMING: Timing = Object.freeze({
    join: 10,
    ready: 5,
    answer: 10,
    ice: 15,
    total: 30,
    retryPause: 3,
    gather: 1,
    iceServers: 0.3,
    earlyKnock: 0.05,
    presenceDebounce: 1.5,
    reconnectFirst: 1,
    reconnectCap: 60,
    ping: 1,
    silence: 3,
    giveUp: 15,
    wake: 1,
    improveFirst: 15,
    improveCap: 300,
    keep: 300,
    relayOpen: 5,
    relayWait: 20,
    promise: 10,
    broadcastPause: 1,
    broadcastAfter: 5,
    broadcastWait: 20,
    broadcastOpen: 10,
    broadcastSlot: 0.02,
    broadcastAcknowledge: 0.2,
    broadcastResend: 1,
    broadcastResendCap: 3,
    call: 30,
    shutdown: 2,
});
