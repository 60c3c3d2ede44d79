// What the page notices of sleep, hiding and networks.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Surroundings, watchForWaking } from "../../src/client/waking.ts";

class Page extends EventTarget {
    visibilityState = "visible";
}

const heard: string[] = [];
let page: Page;
let window: EventTarget;
let network: EventTarget;
let around: Surroundings;

beforeEach(() => {
    vi.useFakeTimers();
    heard.length = 0;
    [page, window, network] = [new Page(), new EventTarget(), new EventTarget()];
    around = { window, document: page, network };
});
afterEach(() => {
    vi.useRealTimers();
});

it("events of the page and of the network, and nothing after the end", () => {
    const unwatch = watchForWaking((why) => heard.push(why), around);
    const everything = () => {
        window.dispatchEvent(new Event("online"));
        window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: false }));
        window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
        page.visibilityState = "hidden";
        page.dispatchEvent(new Event("visibilitychange"));
        page.visibilityState = "visible";
        page.dispatchEvent(new Event("visibilitychange"));
        page.dispatchEvent(new Event("resume"));
        network.dispatchEvent(new Event("change"));
    };
    everything();
    expect(heard).toEqual([
        "online again",
        "shown again",
        "visible again",
        "resumed after a freeze",
        "the network changed",
    ]);
    unwatch();
    everything();
    expect([heard.length, vi.getTimerCount()]).toEqual([5, 0]);
});

it("a clock that jumped: the machine was asleep", () => {
    const unwatch = watchForWaking((why) => heard.push(why), { window, document: page });
    vi.advanceTimersByTime(20_000);
    expect(heard).toEqual([]);
    vi.setSystemTime(Date.now() + 60_000);
    vi.advanceTimersByTime(2_000);
    expect(heard).toEqual(["awake again"]);
    vi.setSystemTime(Date.now() - 3_600_000); // set by hand: no sleep
    vi.advanceTimersByTime(20_000);
    expect(heard).toEqual(["awake again"]);
    unwatch();
});
