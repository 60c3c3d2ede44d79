// Protocol: the error tree, with the names and wire codes of protocol/errors.py.

export class DoorstepError extends Error {
    readonly code: string;

    constructor(code: string, message: string) {
        super(message);
        this.code = code;
        this.name = new.target.name;
    }
}

/** A field has a value that is not allowed; `field` names it. */
export class InvalidInput extends DoorstepError {
    readonly field: string;
    readonly reason: string;

    constructor(field: string, reason: string) {
        super("invalid", `${field}: ${reason}`);
        this.field = field;
        this.reason = reason;
    }
}

/** No session, or the back end no longer accepts it. */
export class NotSignedIn extends DoorstepError {
    constructor(message: string) {
        super("not-signed-in", message);
    }
}

/** The back end's policies refuse this; trying again does not help. */
export class Unauthorized extends DoorstepError {
    constructor(message: string) {
        super("unauthorized", message);
    }
}

/** The agent sent `connection-refused`; `reason` is its code, `retryAfter` is in seconds. */
export class ConnectionRefused extends DoorstepError {
    readonly reason: string;
    readonly retryAfter: number | undefined;

    constructor(reason: string, message: string, retryAfter?: number) {
        super("connection-refused", `the agent refused the connection (${reason}): ${message}`);
        this.reason = reason;
        this.retryAfter = retryAfter;
    }
}

/** The agent never answered a knock. */
export class AgentUnreachable extends DoorstepError {
    constructor(message = "agent offline or not responding") {
        super("agent-unreachable", message);
    }
}

/** Who answered is not who was expected, or did not prove it; `known` and `shown` are fingerprints of keys. */
export class PeerNotTrusted extends DoorstepError {
    readonly known: string | undefined;
    readonly shown: string | undefined;
    /** It says so of us, in a `connection-refused`, which anybody on the channel may have sent; else it was found out here. */
    readonly told: boolean;

    constructor(message: string, known?: string, shown?: string, told = false) {
        super("not-trusted", message);
        this.known = known;
        this.shown = shown;
        this.told = told;
    }
}

/** A service of the peer answered with an error; `code` is the peer's code. */
export class RemoteError extends DoorstepError {}

/** The peer broke the protocol; `position` is the byte offset in the frame, where one is known. */
export class ProtocolError extends DoorstepError {
    readonly position: number | undefined;

    constructor(message: string, position?: number) {
        super("protocol", position === undefined ? message : `${message} (at byte ${position})`);
        this.position = position;
    }
}

/** A signaling message of this `event` is dropped because `field` has a value that is not allowed. */
export class MalformedMessage extends DoorstepError {
    readonly event: string;
    readonly field: string;
    readonly reason: string;

    constructor(event: string, field: string, reason: string) {
        super("malformed", `${event}: ${field}: ${reason}`);
        this.event = event;
        this.field = field;
        this.reason = reason;
    }
}

/** There is no joined Realtime channel to send on. */
export class SignalingLost extends DoorstepError {
    constructor(message: string) {
        super("signaling-lost", message);
    }
}

/** No wire to the agent could be opened; `wait` names the limit that was reached, if one was. */
export class ConnectFailed extends DoorstepError {
    readonly wait: string | undefined;

    constructor(message: string, wait?: string) {
        super("connect-failed", message);
        this.wait = wait;
    }
}

/** The machine's present state does not allow this event; nothing has changed. */
export class NotAllowed extends DoorstepError {
    constructor(state: string, trigger: string) {
        super("internal", `${trigger} is not allowed in ${state}`);
    }
}

/** This wire is gone; what was sent on it may not have arrived. */
export class WireClosed extends DoorstepError {
    constructor(message: string) {
        super("wire-closed", message);
    }
}

/** The session's wire does not carry `lane`; it goes over a better one, which is tried for. */
export class NotCarried extends DoorstepError {
    readonly lane: string;

    constructor(lane: string, wire: string) {
        super(
            "unsupported",
            `${lane} does not go over ${wire}: it needs a better connection, try again later`,
        );
        this.lane = lane;
    }
}

/** The session has ended; `reason` says why. */
export class SessionClosed extends DoorstepError {
    readonly reason: string;

    constructor(reason: string) {
        super("session-closed", `the session has ended: ${reason}`);
        this.reason = reason;
    }
}

/** This stream no longer allows that. */
export class StreamClosed extends DoorstepError {
    constructor(message: string) {
        super("stream-closed", message);
    }
}

/** The wait named `wait` reached its limit of `seconds`. */
export class DeadlineExceeded extends DoorstepError {
    readonly wait: string;

    constructor(wait: string, seconds: number) {
        super("timeout", `${wait}: nothing came within ${seconds} s`);
        this.wait = wait;
    }
}
