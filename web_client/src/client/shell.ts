// Client: one shell of the agent's terminal service. Output is taken only as fast as the screen takes it.

import { DeadlineExceeded, RemoteError } from "../protocol/errors.ts";
import type { Session } from "../runtime/session.ts";
import type { Stream } from "../runtime/stream.ts";

export interface Size {
    readonly cols: number;
    readonly rows: number;
}

/** What the output goes to; `done` is called when the bytes have been taken in. */
export interface Screen {
    write(bytes: Uint8Array, done: () => void): void;
}

/** Bytes the screen may have pending. The peer's window bounds the rest, so Ctrl-C is seen at once under `yes`. */
const SCREEN_BYTES = 64 * 1024;

/** Bytes of keystrokes that may wait for the machine, as while there is no wire; one paste may be larger. */
const TYPED_BYTES = 256 * 1024;

const utf8 = new TextEncoder();

export class Shell {
    /** Resolves when the shell is over, with what there is to say about it; rejects when the session is lost. */
    readonly ended: Promise<string>;
    readonly program: string;
    private readonly session: Session;
    private readonly stream: Stream;
    private wanted: Size;
    private resizing = false;
    private typed = 0;

    private constructor(session: Session, stream: Stream, size: Size, screen: Screen) {
        this.session = session;
        this.stream = stream;
        this.wanted = size;
        this.program = String(stream.result.shell ?? "shell");
        this.ended = this.pump(screen);
        this.ended.catch(() => undefined); // the owner watches it too
    }

    /** Open a login shell. Throws `RemoteError`, `SessionClosed`. */
    static async open(session: Session, size: Size, screen: Screen): Promise<Shell> {
        const params = {
            cols: size.cols,
            rows: size.rows,
            term: "xterm-256color",
            env: { COLORTERM: "truecolor" },
        };
        const stream = await session.open("terminal", "open", params, "terminal-io");
        return new Shell(session, stream, size, screen);
    }

    /** Keystrokes; false when so many wait already that these are not taken. Those after the shell's end are dropped. */
    type(keys: string | Uint8Array): boolean {
        const bytes = typeof keys === "string" ? utf8.encode(keys) : keys;
        if (this.typed > 0 && this.typed + bytes.length > TYPED_BYTES) return false;
        this.typed += bytes.length;
        this.stream
            .write(bytes)
            .catch((error: Error) => console.debug("keystroke dropped:", error.message))
            .finally(() => {
                this.typed -= bytes.length;
            });
        return true;
    }

    /** The newest size wins; at most one call is on its way. */
    async resize(size: Size): Promise<void> {
        this.wanted = size;
        if (this.resizing) return;
        this.resizing = true;
        try {
            for (let sent: Size | null = null; sent !== this.wanted; ) {
                sent = this.wanted;
                const params = {
                    terminalId: this.stream.result.terminalId,
                    cols: sent.cols,
                    rows: sent.rows,
                };
                try {
                    await this.session.call("terminal.resize", params);
                } catch (error) {
                    if (!(error instanceof DeadlineExceeded)) throw error;
                    sent = null; // there was no wire for so long: once more
                }
            }
        } catch (error) {
            console.debug("resize:", (error as Error).message); // the shell has just ended, or the session has
        } finally {
            this.resizing = false;
        }
    }

    /** Hang up. */
    close(): void {
        try {
            this.stream.reset("cancelled", "the terminal was closed");
        } catch (error) {
            console.debug("hang up:", (error as Error).message); // the wire went first
        }
    }

    private async pump(screen: Screen): Promise<string> {
        let pending = 0;
        let room: (() => void) | null = null;
        for (;;) {
            const chunk = await this.stream.read();
            if (chunk === null) break;
            pending += chunk.length;
            screen.write(chunk, () => {
                pending -= chunk.length;
                room?.();
            });
            while (pending > SCREEN_BYTES) {
                await new Promise<void>((resolve) => {
                    room = resolve;
                });
            }
        }
        await this.stream.finish().catch((error: Error) => {
            if (!(error instanceof RemoteError)) console.debug("finish:", error.message);
        });
        return farewell(this.stream.trailer ?? {});
    }
}

function farewell(trailer: Record<string, unknown>): string {
    if (typeof trailer.signal === "number") return `the shell was ended by signal ${trailer.signal}`;
    if (trailer.exitCode === 0) return "the shell has ended";
    return `the shell has ended with code ${String(trailer.exitCode ?? "?")}`;
}
