// The pool: side by side, the first ready carries, the better takes over, what is not needed leaves nothing behind.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ConnectFailed, PeerNotTrusted, WireClosed } from "../../src/protocol/errors.ts";
import { type Carry, type Opener, WirePool } from "../../src/transport/pool.ts";
import type { Wire } from "../../src/transport/wire.ts";
import { MemoryWire } from "../runtime/memory_wire.ts";

/** A way whose success and failure the test decides. */
class Way implements Opener {
    readonly kind: string;
    tries = 0;
    aborted = 0;
    private carry: Carry = async () => undefined;
    private fail: (error: Error) => void = () => undefined;
    private done: () => void = () => undefined;

    constructor(kind: string) {
        this.kind = kind;
    }

    open(carry: Carry, signal: AbortSignal): Promise<void> {
        this.tries += 1;
        this.carry = carry;
        return new Promise((resolve, reject) => {
            this.done = resolve;
            this.fail = reject;
            signal.addEventListener("abort", () => {
                this.aborted += 1;
                reject(new ConnectFailed("no longer wanted"));
            });
        });
    }

    async ready(): Promise<MemoryWire> {
        const wire = new MemoryWire();
        try {
            await this.carry(wire);
            this.done();
        } catch (error) {
            this.fail(error as Error);
        }
        return wire;
    }

    broken(error: Error = new ConnectFailed(`${this.kind} is broken`)): void {
        this.fail(error);
    }
}

const TIMING = { improveFirst: 15, improveCap: 60, silence: 3 };
let [best, good, bad]: [Way, Way, Way] = [new Way(""), new Way(""), new Way("")];
let carried: MemoryWire[] = [];
let pool: WirePool;

beforeEach(() => {
    vi.useFakeTimers();
    vi.spyOn(console, "debug").mockImplementation(() => undefined);
    [best, good, bad] = [new Way("best"), new Way("good"), new Way("bad")];
    carried = [];
    pool = new WirePool([best, good, bad], async (wire) => void carried.push(wire as MemoryWire), TIMING);
});

afterEach(async () => {
    await pool.close();
    await settle();
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
});

const settle = () => vi.advanceTimersByTimeAsync(0);

/** Two who ask at once for another wire, and get none. */
async function inVain(during: string, after: string): Promise<void> {
    const living = pool.wire.value;
    const both = Promise.allSettled([pool.open(), pool.open()]);
    await settle();
    expect(pool.reason).toBe(during);
    for (const way of [best, good, bad]) way.broken();
    expect((await both).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect([pool.wire.value, pool.reason]).toEqual([living, after]);
}

describe("wire pool", () => {
    it("the first ready carries, better ones take over, the rest is called off", async () => {
        const opened = pool.open();
        await settle();
        expect([best.tries, good.tries, bad.tries]).toEqual([1, 1, 1]);
        const first = await good.ready();
        await opened;
        expect(pool.wire.value).toBe(first);
        expect(pool.reason).toBe("best is being tried");
        expect([best.aborted, bad.aborted]).toEqual([0, 1]);
        const second = await best.ready();
        expect(pool.wire.value).toBe(second);
        expect([carried, pool.reason]).toEqual([[first, second], ""]);
    });

    it("what is ready too late is closed", async () => {
        const opened = pool.open();
        await settle();
        const slow = good.ready(); // both stand in line
        const quick = best.ready();
        await Promise.all([slow, quick, opened]);
        const late = await good.ready();
        await expect(late.closed).resolves.toContain("better wire");
        expect(pool.wire.value).toBe(await quick);
    });

    it("one that cannot carry is no wire", async () => {
        const refusing = new WirePool(
            [best, good],
            async (wire) => {
                if (carried.push(wire as MemoryWire) === 1) throw new WireClosed("refused");
            },
            TIMING,
        );
        const opened = refusing.open();
        await settle();
        await best.ready();
        const second = await good.ready();
        await opened;
        expect(refusing.wire.value).toBe(second);
        expect(refusing.reason).toBe("best: refused");
        await refusing.close();
    });

    it.each([
        [new ConnectFailed("no path"), new ConnectFailed("no relay"), "no path"],
        [new ConnectFailed("no path"), new PeerNotTrusted("mallory"), "mallory"],
    ])("without success it ends with the error that matters", async (one, other, told) => {
        const opened = pool.open();
        opened.catch(() => undefined);
        await settle();
        best.broken(one);
        good.broken(other);
        bad.broken();
        await expect(opened).rejects.toThrow(told);
        expect(pool.wire.value).toBeNull();
    });

    it("a lesser wire: the better is tried again, ever more seldom, and at once in a hurry", async () => {
        const opened = pool.open();
        await settle();
        const wire = await good.ready();
        await opened;
        best.broken(new ConnectFailed("no path"));
        await settle();
        expect(pool.reason).toBe("best: no path");
        for (const [pause, tries] of [
            [15, 2],
            [30, 3],
            [60, 4],
            [60, 5],
        ] as const) {
            await vi.advanceTimersByTimeAsync(pause * 1000 - 1);
            expect(best.tries).toBe(tries - 1);
            await vi.advanceTimersByTimeAsync(1);
            expect([best.tries, good.tries]).toEqual([tries, 1]);
            best.broken(new ConnectFailed("no path"));
            await settle();
        }
        pool.hurry();
        expect(best.tries).toBe(6);
        const better = await best.ready();
        expect([pool.wire.value, pool.reason]).toEqual([better, ""]);
        wire.close();
        await settle();
        expect(pool.wire.value).toBe(better);
    });

    it("anew: everything is tried again while the present wire carries on", async () => {
        const opened = pool.open();
        await settle();
        const first = await best.ready();
        await opened;
        const again = pool.open();
        again.catch(() => undefined);
        await settle();
        expect([best.tries, good.tries, bad.tries]).toEqual([2, 2, 2]);
        expect(pool.wire.value).toBe(first);
        for (const way of [best, good, bad]) way.broken();
        await expect(again).rejects.toThrow("best is broken");
        expect([pool.wire.value, pool.reason]).toEqual([first, ""]);
        const third = pool.open();
        await settle();
        const other = await bad.ready();
        await third;
        expect(pool.wire.value).toBe(other);
    });

    it("anew, twice, in vain: the wire goes on as it was, and better ones are looked for", async () => {
        const opened = pool.open();
        await settle();
        const first = await best.ready();
        await opened;
        await inVain("", "");
        first.close("gone");
        await settle();
        const other = pool.open();
        await settle();
        await good.ready();
        await other;
        await inVain("best is being tried", "best: best is broken");
        expect(vi.getTimerCount()).toBe(1);
        const tries = best.tries;
        await vi.advanceTimersByTimeAsync(60_000);
        expect(best.tries).toBe(tries + 1);
    });

    describe("a greeting that is not answered", () => {
        /** Wires of which the carrying waits for the test, or for their end. */
        const greeted = new Map<Wire, () => void>();
        let slow: WirePool;

        beforeEach(() => {
            greeted.clear();
            const carry = (wire: Wire) =>
                new Promise<void>((resolve, reject) => {
                    greeted.set(wire, resolve);
                    void wire.closed.then((reason) => reject(new WireClosed(reason)));
                });
            slow = new WirePool([best, good, bad], carry, TIMING);
        });

        afterEach(() => slow.close());

        it("holds no better wire up, and is tried again when that comes to nothing", async () => {
            const opened = slow.open();
            await settle();
            void good.ready();
            await settle();
            const [silent] = [...greeted.keys()];
            void bad.ready(); // a worse one waits
            void best.ready();
            await settle();
            await expect(silent?.closed).resolves.toContain("better wire is ready");
            expect([greeted.size, good.tries, bad.tries]).toEqual([2, 1, 1]);
            [...greeted.keys()][1]?.close("it came to nothing");
            await settle();
            expect([best.tries, good.tries, bad.tries]).toEqual([1, 2, 2]);
            expect([best.aborted, good.aborted, bad.aborted]).toEqual([0, 0, 0]);
            void good.ready();
            await settle();
            [...greeted.values()][2]?.();
            await opened;
            expect(slow.wire.value).toBe([...greeted.keys()][2]);
            expect([slow.reason, bad.aborted > 0]).toEqual(["best: it came to nothing", true]);
        });

        it("is not tried again when the better wire carries the session", async () => {
            const opened = slow.open();
            await settle();
            void good.ready();
            await settle();
            void best.ready();
            await settle();
            const [, wire] = [...greeted.keys()];
            greeted.get(wire as Wire)?.();
            await opened;
            expect(slow.wire.value).toBe(wire);
            await settle();
            expect([good.tries, bad.aborted, vi.getTimerCount()]).toEqual([1, 1, 0]);
        });

        it("leaves no wire open whose turn does not come", async () => {
            const opened = slow.open();
            opened.catch(() => undefined);
            await settle();
            void best.ready();
            await settle();
            const waiting = good.ready();
            await settle();
            await slow.close();
            for (const wire of [...greeted.keys(), await waiting])
                await expect(wire.closed).resolves.toBe("no longer wanted");
            expect(greeted.size).toBe(1);
        });
    });

    it("a wire that cannot be carried is closed", async () => {
        const refusing = new WirePool(
            [best],
            async () => {
                throw new WireClosed("refused");
            },
            TIMING,
        );
        const opened = refusing.open();
        await settle();
        const [wire] = await Promise.all([best.ready(), expect(opened).rejects.toThrow("refused")]);
        await expect(wire.closed).resolves.toBe("refused");
    });

    it("a defect of one way is logged and is the failure of this one", async () => {
        const logged = vi.spyOn(console, "error").mockImplementation(() => undefined);
        const defect = new TypeError("x is undefined");
        const opened = pool.open();
        opened.catch(() => undefined);
        await settle();
        best.broken(defect);
        await settle();
        expect(logged).toHaveBeenCalledWith("the way by best has a defect:", defect);
        logged.mockRestore();
        good.broken();
        bad.broken();
        const error = await opened.catch((one: unknown) => one);
        expect(error).toBeInstanceOf(ConnectFailed);
        expect((error as Error).message).toMatch(/internal error of the way by best.*x is undefined/);
    });

    it("a wire that is gone is none; a new start ends what was under way", async () => {
        const opened = pool.open();
        await settle();
        const wire = await bad.ready();
        await opened;
        wire.close("gone");
        await settle();
        expect([pool.wire.value, pool.reason]).toEqual([null, ""]);
        const again = pool.open();
        await settle();
        expect([best.aborted, best.tries]).toEqual([1, 2]);
        await best.ready();
        await again;
    });

    it("a wire of another way carries on until one of these is ready", async () => {
        const present = new MemoryWire();
        const other = new WirePool([best], async () => undefined, TIMING, present);
        const opened = other.open();
        opened.catch(() => undefined);
        await settle();
        best.broken(new ConnectFailed("no path"));
        await expect(opened).rejects.toThrow("no path");
        expect([other.wire.value, other.reason]).toEqual([present, "best: no path"]);
        await vi.advanceTimersByTimeAsync(15_000);
        expect(best.tries).toBe(2);
        const wire = await best.ready();
        expect([other.wire.value, other.reason]).toEqual([wire, ""]);
        await other.close();
    });

    it("closed: what is under way ends, the wire stays, nothing starts", async () => {
        const opened = pool.open();
        await settle();
        const wire = await good.ready();
        await opened;
        await pool.close();
        expect([best.aborted, pool.wire.value]).toEqual([1, wire]);
        await expect(pool.open()).rejects.toThrow(ConnectFailed);
        pool.hurry();
        await vi.advanceTimersByTimeAsync(1_000_000);
        expect(best.tries).toBe(1);
    });
});
