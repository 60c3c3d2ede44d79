// Protocol: every bound on what a peer can make us hold, as protocol/limits.py names it.

const KIB = 1024;
const MIB = 1024 * KIB;

/** Attempts after the first one. */
export const RETRIES = 3;
/** Largest session frame either side may offer in HELLO. */
export const MAX_FRAME = 256 * KIB;
/** Smallest `maxFrame` either side may offer: below it DATA would be mostly headers. */
export const SMALLEST_FRAME = 1 * KIB;
/** Bytes in one DATA frame: small enough that a keystroke never waits behind a big message. */
export const DATA_CHUNK = 16 * KIB;
export const STREAMS_PER_SESSION = 256;
/** Streams of one session that are open, or ended without the peer having acknowledged it. */
export const STREAMS_KEPT = 4 * STREAMS_PER_SESSION;
/** Positions in one greeting: of the streams that either side opened. */
export const STREAMS_STATED = 2 * STREAMS_KEPT;
/** Unacknowledged bytes of an interactive stream. */
export const TERMINAL_WINDOW = 256 * KIB;
/** Unacknowledged bytes of a bulk stream. */
export const BULK_WINDOW = 4 * MIB;
/** Largest JSON body in a frame. */
export const JSON_BYTES = 64 * KIB;
/** Unanswered calls of one session, each way. */
export const CALLS_IN_FLIGHT = 256;
/** A browser's offer with four lanes has 1–2 KiB. */
export const SDP_BYTES = 64 * KIB;
/** Certificate fingerprints of one description: a browser has one. */
export const FINGERPRINTS = 8;
export const CANDIDATE_BYTES = 1 * KIB;
/** Candidates kept before the remote description, and accepted in all. */
export const CANDIDATES_PER_SESSION = 64;
export const CANDIDATES_PER_MESSAGE = 32;
/** In one `connection-ready`; each with at most this many URLs. */
export const ICE_SERVERS = 16;
/** A sentence, a URL or a secret in a signaling message. */
export const TEXT_BYTES = 1 * KIB;
/** A code, a label or an ICE username fragment (RFC 8839 §5.4: at most 256) in a signaling message. */
export const WORD_BYTES = 256;
/** Names of capabilities, and entries of a proof, in one message. */
export const CAPABILITIES = 32;
/** A bulk sender waits above this many bytes in `bufferedAmount`. */
export const LANE_HIGH_WATER = 256 * KIB;
/** `bufferedAmountLowThreshold`: where a waiting sender goes on. */
export const LANE_LOW_WATER = 64 * KIB;
/** Bytes queued on one lane; a wire on which more would wait is closed. */
export const LANE_LIMIT = 16 * MIB;
/** Agent names, service names, methods. */
export const NAME_CHARACTERS = 64;
/** Messages per second that one end of a broadcast wire sends. Each counts twice, as sent and as received. */
export const BROADCAST_RATE = 10;
/** Messages that go at once after a rest. */
export const BROADCAST_BURST = 5;
/** Bytes of the stream in one message; a third more in base64. */
export const BROADCAST_BYTES = 8 * KIB;
/** Pieces of the stream from the oldest that is not acknowledged. */
export const BROADCAST_WINDOW = 32;
/** A piece that goes unacknowledged more often than this ends the wire. */
export const BROADCAST_RESENDS = 5;
/** A writer waits above this many bytes until there are no more than the low mark. */
export const BROADCAST_HIGH_WATER = 24 * KIB;
export const BROADCAST_LOW_WATER = 8 * KIB;
