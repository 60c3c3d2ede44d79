// Tests: one step of the stream vectors, to the method of the machine that takes it.

import type { Json, StreamFrame } from "../../src/protocol/frames.ts";
import type { StreamMachine } from "../../src/protocol/stream.ts";
import { fromHex, withBytes } from "../vectors.ts";

export interface Act {
    readonly do: string;
    readonly payload?: string;
    readonly count?: number;
    readonly result?: Json;
    readonly trailer?: Json;
    readonly code?: string;
    readonly message?: string;
    readonly received?: StreamFrame;
    readonly position?: number | null;
    readonly most?: number;
}

export interface Scenario<Step extends Act> {
    readonly name: string;
    readonly opener: boolean;
    readonly window: number;
    readonly peerWindow: number;
    readonly steps: Step[];
}

export function act(machine: StreamMachine, step: Act): unknown {
    switch (step.do) {
        case "accept":
            return machine.accept(step.result ?? {});
        case "send":
            return machine.send(fromHex(step.payload ?? ""));
        case "finish":
            return machine.finish(step.trailer ?? {});
        case "reset":
            return machine.reset(step.code ?? "", step.message ?? "");
        case "consume":
            return machine.consume(step.count ?? 0);
        case "check-readable":
            return machine.checkReadable();
        case "resume":
            return machine.resume(step.position);
        case "pull":
            return machine.pull(step.most ?? 0);
        case "acknowledge":
            return machine.acknowledge();
        case "receive":
            return take(machine, withBytes(step.received as StreamFrame & { payload?: unknown }));
        default:
            throw new Error(`the vectors have a new step: ${step.do}`);
    }
}

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
