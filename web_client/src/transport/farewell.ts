// Transport, below a sealed wire: the last message, sealed beforehand: a page that goes away cannot wait for a cipher.

import { encode, type Frame } from "../protocol/frames.ts";
import type { Bytes } from "../protocol/proof.ts";
import type { SealedChannel } from "../protocol/seal.ts";

export class Farewell {
    /** Null until it is sealed. */
    sealed: Bytes | null = null;

    /** Seal `frame`; called once for a channel. `fail` hears what goes wrong. */
    prepare(channel: SealedChannel, frame: Frame, fail: (error: Error) => void): void {
        channel.sealFarewell(encode(frame)).then((sealed) => {
            this.sealed = sealed;
        }, fail);
    }
}
