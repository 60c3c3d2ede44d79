// Protocol: the bytes of one direction that the peer has not acknowledged, by their offsets.

/** A queue of bytes with offsets; memory is given back as it empties, so what is kept costs about its size. */
export class Kept {
    /** The offset of the first byte that is kept. */
    start = 0;
    private bytes = new Uint8Array(0);
    private head = 0; // of `bytes`: what lies before it is dropped
    private tail = 0;

    get length(): number {
        return this.tail - this.head;
    }

    push(payload: Uint8Array): void {
        if (this.tail + payload.length > this.bytes.length) this.move(this.length + payload.length);
        this.bytes.set(payload, this.tail);
        this.tail += payload.length;
    }

    /** A copy of the bytes from offset `from` to offset `until`. */
    slice(from: number, until: number): Uint8Array {
        const shift = this.head - this.start;
        return this.bytes.slice(from + shift, until + shift);
    }

    /** Forget the bytes before offset `until`, at most all of them. */
    drop(until: number): void {
        const count = until - this.start;
        if (count <= 0) return;
        this.head = Math.min(this.head + count, this.tail);
        this.start = until;
        if (this.length * 4 < this.bytes.length) this.move(this.length);
    }

    /** To the front, of an array with room for `least` bytes and as many again. */
    private move(least: number): void {
        const room = new Uint8Array(2 * least);
        room.set(this.bytes.subarray(this.head, this.tail));
        this.tail = this.length;
        this.head = 0;
        this.bytes = room;
    }
}
