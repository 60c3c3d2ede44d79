// Tests: a frame that came, to the method of the machine that takes it.

import type { StreamFrame } from "../../src/protocol/frames.ts";
import type { StreamMachine } from "../../src/protocol/stream.ts";

export function take(machine: StreamMachine, frame: StreamFrame): unknown {
    switch (frame.kind) {
        case "accept":
            return machine.receiveAccept(frame);
        case "data":
            return machine.receiveData(frame);
        case "window":
            return machine.receiveWindow(frame);
        case "fin":
            return machine.receiveFin(frame);
        case "reset":
            return machine.receiveReset(frame);
        default:
            throw new Error(frame.kind);
    }
}
