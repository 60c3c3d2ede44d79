// Tests: a relay in memory that keeps to docs/wire.md, "The relay", unless it is told to be hostile.

import type { Bytes } from "../../src/protocol/proof.ts";
import { END } from "../../src/protocol/relay.ts";
import type { OpenSocket, Socket } from "../../src/transport/relay_socket.ts";

class MemorySocket implements Socket {
    binaryType: BinaryType = "blob";
    bufferedAmount = 0;
    onopen: (() => void) | null = null;
    onmessage: ((event: { data: unknown }) => void) | null = null;
    onclose: ((event: { code: number; reason: string }) => void) | null = null;
    partner: MemorySocket | null = null;
    role = "";
    over = false;
    private readonly relay: MemoryRelay;

    constructor(relay: MemoryRelay) {
        this.relay = relay;
        setImmediate(() => (relay.down ? this.lose(1006) : this.onopen?.()));
    }

    send(data: string | Bytes): void {
        if (this.over) return;
        if (typeof data === "string") this.relay.told(this, JSON.parse(data));
        else this.relay.forward(this, data.slice());
    }

    close(): void {
        if (this.over) return;
        this.over = true;
        this.relay.left(this);
    }

    /** A task later, as on a real one. */
    arrive(data: unknown): void {
        setImmediate(() => this.over || this.onmessage?.({ data }));
    }

    lose(code: number, reason = ""): void {
        setImmediate(() => {
            if (this.over) return;
            this.over = true;
            this.onclose?.({ code, reason });
        });
    }
}

export class MemoryRelay {
    down = false;
    refuses: { code: number; reason: string } | null = null;
    tokenSeconds = 3600;
    readonly sockets: MemorySocket[] = [];
    /** What was said to the relay itself, tokens included. */
    readonly words: Record<string, unknown>[] = [];
    /** What a hostile relay makes of the messages of one role; by default it hands them on. */
    meddle: (role: string, message: Bytes) => Bytes[] = (_role, message) => [message];

    readonly open: OpenSocket = () => {
        const socket = new MemorySocket(this);
        this.sockets.push(socket);
        return socket;
    };

    told(socket: MemorySocket, word: Record<string, unknown>): void {
        this.words.push(word);
        if (word.event === "token") return this.say(socket, { event: "renewed", tokenSeconds: 3600 });
        if (this.refuses) return socket.lose(this.refuses.code, this.refuses.reason);
        socket.role = String(word.role);
        this.say(socket, { event: "waiting", seconds: 20 });
        const partner = this.sockets.find(
            (one) => one.role && one.role !== socket.role && !one.over && !one.partner,
        );
        if (!partner) return;
        socket.partner = partner;
        partner.partner = socket;
        for (const one of [partner, socket])
            this.say(one, { event: "paired", tokenSeconds: this.tokenSeconds, maxMessage: 262_161 });
    }

    forward(socket: MemorySocket, message: Bytes): void {
        for (const one of this.meddle(socket.role, message))
            socket.partner?.arrive(one.buffer.slice(one.byteOffset, one.byteOffset + one.length));
    }

    left(socket: MemorySocket): void {
        socket.partner?.lose(END.peerLeft, "the other side has left");
    }

    private say(socket: MemorySocket, notice: object): void {
        socket.arrive(JSON.stringify(notice));
    }
}
