// Client: the agents whose keys this browser knows, pinned at the first contact; client/known.py does the same.

import { PeerNotTrusted } from "../protocol/errors.ts";

/** Where the list is kept; `localStorage` is one. */
export type Store = Pick<Storage, "getItem" | "setItem">;

export interface Key {
    /** Base64url. */
    readonly key: string;
    readonly fingerprint: string;
}

export interface KnownAgent extends Key {
    readonly backend: string;
    readonly id: string;
    readonly name: string;
    /** Unix time in seconds. */
    readonly since: number;
    /** A changed key that came and was refused. */
    readonly refused?: Key;
}

/** An agent as the back end introduces it. */
export type Stranger = Pick<KnownAgent, "backend" | "id" | "name">;

const ITEM = "doorstep.known_agents";

export class KnownAgents {
    private readonly store: Store;

    constructor(store: Store) {
        this.store = store;
    }

    /** The pin of this agent, by its id, or by its name at this back end. */
    find(agent: Stranger): KnownAgent | null {
        const pins = this.read().filter((pin) => isMeant(pin, agent));
        if (new Set(pins.map((pin) => pin.key)).size > 1)
            throw new PeerNotTrusted(
                `${agent.name} comes with the name of one known machine and the id of another, so the connection was refused. If you have renamed it, forget its key in the list of known machines.`,
            );
        return pins[0] ?? null;
    }

    /** As `find`, for showing: null where that throws. */
    search(agent: Stranger): KnownAgent | null {
        try {
            return this.find(agent);
        } catch (error) {
            if (error instanceof PeerNotTrusted) return null;
            throw error;
        }
    }

    /** Take the key an agent has shown: pin it at the first contact if it was proved, compare it ever after. */
    check(agent: Stranger, shown: Key, proved: boolean): void {
        const known = this.find(agent);
        if (known && known.key !== shown.key) {
            this.replace(agent, { ...known, refused: shown });
            throw new PeerNotTrusted(
                `the key of ${agent.name} has changed, so the connection was refused. Known: ${known.fingerprint}. Shown: ${shown.fingerprint}.`,
                known.fingerprint,
                shown.fingerprint,
            );
        }
        if (proved) this.replace(agent, { ...agent, ...shown, since: known?.since ?? Date.now() / 1000 });
    }

    /** Pin the changed key that was refused. */
    accept(agent: Stranger): void {
        const known = this.find(agent);
        if (known?.refused) this.replace(agent, { ...agent, ...known.refused, since: Date.now() / 1000 });
    }

    /** All pins, by name. Throws `PeerNotTrusted` when the list is damaged. */
    all(): KnownAgent[] {
        return this.read().sort((one, other) => one.name.localeCompare(other.name));
    }

    /** Only ever by the user's explicit wish: the next key that this agent proves is pinned unseen. */
    forget(pin: KnownAgent): void {
        this.write(this.read().filter((one) => one.id !== pin.id || one.backend !== pin.backend));
    }

    /** Likewise for all; also when the list is damaged. */
    forgetAll(): void {
        this.write([]);
    }

    private replace(agent: Stranger, pin: KnownAgent): void {
        this.write([...this.read().filter((one) => !isMeant(one, agent)), pin]);
    }

    private read(): KnownAgent[] {
        const text = this.store.getItem(ITEM);
        if (text === null) return [];
        try {
            const pins: unknown = JSON.parse(text);
            if (Array.isArray(pins) && pins.every(isPin)) return pins;
        } catch (error) {
            console.warn("known machines:", (error as Error).message);
        }
        throw new PeerNotTrusted(
            "the list of machines this browser knows is damaged; forget all of them to start anew",
        );
    }

    private write(pins: readonly KnownAgent[]): void {
        this.store.setItem(ITEM, JSON.stringify(pins));
    }
}

function isMeant(pin: Stranger, agent: Stranger): boolean {
    return pin.id === agent.id || (pin.backend === agent.backend && pin.name === agent.name);
}

function isPin(value: unknown): value is KnownAgent {
    const pin = value as Partial<KnownAgent> | null;
    return [pin?.backend, pin?.id, pin?.name, pin?.key, pin?.fingerprint].every(
        (one) => typeof one === "string",
    );
}
