// Transport: who is present, without flicker. An update is a leave and a join; a lone leave counts after a while.

import type { Presence } from "./signaling.ts";

type Meta = Readonly<Record<string, unknown>>;

/** Feed it every state the server reports; it tells of additions and changes at once and of leaves late. */
export class PresenceDebounce {
    private shown = new Map<string, Meta>();
    private readonly leaving = new Map<string, ReturnType<typeof setTimeout>>();
    private readonly seconds: number;
    private readonly tell: (presence: Presence) => void;

    constructor(seconds: number, tell: (presence: Presence) => void) {
        this.seconds = seconds;
        this.tell = tell;
    }

    /** The whole present state: key → metas, the newest last. */
    state(now: Readonly<Record<string, readonly Meta[]>>): void {
        for (const [key, metas] of Object.entries(now)) {
            const newest = metas.at(-1);
            if (newest) this.here(key, newest);
        }
        for (const key of this.shown.keys()) {
            if (!now[key]?.length && !this.leaving.has(key)) this.leave(key);
        }
        this.tell(new Map(this.shown));
    }

    close(): void {
        for (const timer of this.leaving.values()) clearTimeout(timer);
        this.leaving.clear();
    }

    private here(key: string, meta: Meta): void {
        clearTimeout(this.leaving.get(key));
        this.leaving.delete(key);
        this.shown.set(key, meta);
    }

    private leave(key: string): void {
        const timer = setTimeout(() => {
            this.leaving.delete(key);
            this.shown.delete(key);
            this.tell(new Map(this.shown));
        }, this.seconds * 1000);
        this.leaving.set(key, timer);
    }
}
