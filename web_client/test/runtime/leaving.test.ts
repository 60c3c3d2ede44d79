// A page that goes away: the machine is told before the page is gone, by whatever the wire can do at once.

import { expect, it } from "vitest";
import type { Frame } from "../../src/protocol/frames.ts";
import { begun, turns, wireTo } from "./resuming.ts";

const LEFT: Frame = { kind: "reset", streamId: 0, code: "closed", message: "the page was closed" };

it("says so on a wire that sends at once", async () => {
    const [session, , agent] = await begun();
    session.depart();
    expect(await session.closed).toBe("the page was closed");
    expect(session.ending).toBe("closed");
    await turns();
    expect(agent.seen.at(-1)).toEqual(LEFT);
});

it("lets the wire that carries the session send what was made ready", async () => {
    const [session, first] = await begun();
    const said: string[] = [];
    const [second] = wireTo();
    const prepares = Object.assign(second, {
        prepareFarewell: (frame: Frame) => said.push(`ready: ${frame.kind}`),
        farewell: () => said.push("farewell") > 0,
    });
    Object.assign(first, { farewell: () => said.push("the wrong wire") > 0 });
    await session.carry(prepares);
    session.depart();
    session.depart();
    expect(said).toEqual(["ready: reset", "farewell"]);
    await session.closed;
});

it("has nobody to tell without a wire", async () => {
    const [session, wire] = await begun();
    wire.close();
    await turns();
    expect(session.state.value).toBe("away");
    session.depart();
    expect(await session.closed).toBe("the page was closed");
});
