// Protocol: the candidates of one try, both ways: kept while they are early, sent together, always bounded.
//
// A candidate whose username fragment is not in the description it should belong to is of an older try.

import { CANDIDATES_PER_MESSAGE, CANDIDATES_PER_SESSION } from "./limits.ts";
import { type Candidate, each, type IceCandidate, iceUfrags } from "./signaling.ts";

/** Theirs wait for their description, ours for ours to be sent. */
export class Trickle {
    private early: IceCandidate[] = [];
    private taken = 0;
    private theirs: readonly string[] | null = null;
    private unsent: IceCandidate[] = [];
    private found = 0;
    private ours: string | undefined;
    private isAnnounced = false;
    private readonly sessionId: string | null;
    private readonly sender: string;

    constructor(sessionId: string | null, sender: string) {
        this.sessionId = sessionId;
        this.sender = sender;
    }

    /** Take theirs; return those to add now, and why any was ignored (`stale`, `limit` or empty). */
    receive(message: Candidate): [now: IceCandidate[], why: string] {
        const now: IceCandidate[] = [];
        let why = "";
        for (const one of each(message)) {
            if (this.taken >= CANDIDATES_PER_SESSION) {
                why = "limit";
            } else if (this.theirs === null) {
                this.taken += 1;
                this.early.push(one);
            } else if (belongs(one, this.theirs)) {
                this.taken += 1;
                now.push(one);
            } else {
                why = "stale";
            }
        }
        return [now, why];
    }

    /** Their description is applied; return the kept candidates that belong to it. */
    described(sdp: string): IceCandidate[] {
        const theirs = iceUfrags(sdp);
        const early = this.early;
        this.theirs = theirs;
        this.early = [];
        return early.filter((one) => belongs(one, theirs));
    }

    /** Take one of ours; return the messages to send now. Above the limit it is dropped. */
    gathered(candidate: IceCandidate): Candidate[] {
        if (this.found >= CANDIDATES_PER_SESSION) return [];
        this.found += 1;
        this.unsent.push(candidate);
        return this.isAnnounced ? this.flush() : [];
    }

    /** Our description is on its way; return the messages that follow it. */
    announced(sdp: string): Candidate[] {
        this.ours = iceUfrags(sdp)[0];
        this.isAnnounced = true;
        return this.flush();
    }

    private flush(): Candidate[] {
        const ours = this.unsent.map((one) => this.signed(one));
        this.unsent = [];
        const messages: Candidate[] = [];
        for (let start = 0; start < ours.length; start += CANDIDATES_PER_MESSAGE) {
            const [first, ...more] = ours.slice(start, start + CANDIDATES_PER_MESSAGE);
            if (first) messages.push(this.message(first, more));
        }
        return messages;
    }

    private signed(one: IceCandidate): IceCandidate {
        const usernameFragment = one.usernameFragment || this.ours;
        return usernameFragment === undefined ? one : { ...one, usernameFragment };
    }

    private message(first: IceCandidate, more: readonly IceCandidate[]): Candidate {
        return {
            event: "candidate",
            ...first,
            ...(this.sessionId === null ? {} : { sessionId: this.sessionId }),
            from: this.sender,
            ...(more.length === 0 ? {} : { more }),
        };
    }
}

function belongs(one: IceCandidate, ufrags: readonly string[]): boolean {
    return one.usernameFragment === undefined || ufrags.length === 0 || ufrags.includes(one.usernameFragment);
}
