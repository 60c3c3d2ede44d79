// App: one terminal tab: xterm.js, the shell behind it, and the element both live in.

import { FitAddon } from "@xterm/addon-fit";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";
import { Shell } from "../client/shell.ts";
import { SessionClosed } from "../protocol/errors.ts";
import { Observable, type Unwatch } from "../runtime/observable.ts";
import type { Session } from "../runtime/session.ts";
import { reader } from "./settings.ts";
import { openStrictly } from "./strict_styles.ts";
import { shade, TERMINAL_THEMES } from "./theme.ts";

export type TabState = "waiting" | "opening" | "open" | "ended" | "lost";

const FONT =
    'ui-monospace, "SF Mono", SFMono-Regular, Menlo, "Cascadia Mono", "Liberation Mono", "DejaVu Sans Mono", monospace';

export class TerminalTab {
    readonly number: number;
    readonly title = new Observable("");
    readonly state = new Observable<TabState>("waiting");
    /** The Ctrl key of the key bar is down: the next character becomes a control character. */
    readonly control = new Observable(false);
    /** So much typed waits for the machine that further keys are not taken. */
    readonly full = new Observable(false);
    /** The element to put where the tab is shown. */
    readonly element = document.createElement("div");

    private readonly terminal: Terminal;
    private readonly fitting = new FitAddon();
    private shell: Shell | null = null;
    private session: Session | null = null;
    private closed = false;
    private frame = 0;
    private readonly observer: ResizeObserver;
    private readonly unwatch: Unwatch[];

    constructor(number: number) {
        this.number = number;
        this.element.className = "terminal-host";
        this.terminal = new Terminal({
            allowProposedApi: true, // the unicode version is still one
            cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
            fontFamily: FONT,
            fontSize: matchMedia("(max-width: 720px)").matches ? 12.5 : 14,
            lineHeight: 1.15,
            scrollback: 10_000,
            screenReaderMode: reader.value,
            macOptionIsMeta: true,
            minimumContrastRatio: 4.5,
            theme: TERMINAL_THEMES[shade.value],
        });
        this.terminal.loadAddon(this.fitting);
        this.terminal.loadAddon(new Unicode11Addon());
        this.terminal.loadAddon(
            new WebLinksAddon((_event, uri) => void window.open(uri, "_blank", "noopener,noreferrer")),
        );
        this.terminal.unicode.activeVersion = "11";
        this.terminal.onData((text) => this.typed(text));
        this.terminal.onBinary((bytes) => this.send(Uint8Array.from(bytes, (one) => one.charCodeAt(0))));
        this.terminal.onResize((size) => void this.shell?.resize(size));
        this.terminal.onTitleChange((title) => this.title.set(title));
        this.observer = new ResizeObserver(() => this.fitSoon());
        this.unwatch = [
            shade.watch((next) => {
                this.terminal.options.theme = TERMINAL_THEMES[next];
            }),
            reader.watch((on) => {
                this.terminal.options.screenReaderMode = on;
            }),
        ];
    }

    /** The element is in the page: draw, fit, take the keyboard. */
    show(): void {
        if (!this.terminal.element) {
            openStrictly(this.terminal, this.element);
            this.terminal.textarea?.setAttribute("aria-label", `Terminal ${this.number}`);
        }
        this.observer.observe(this.element);
        this.fit();
        this.terminal.focus();
        if (this.state.value === "waiting" && this.session) void this.openShell(this.session);
    }

    hide(): void {
        this.observer.disconnect();
    }

    focus(): void {
        this.terminal.focus();
    }

    /** A session is up: open a shell in it, below what the screen still shows. */
    use(session: Session): void {
        if (this.session === session) return;
        this.session = session;
        if (this.state.value === "ended") return; // over on purpose; Enter opens a new one
        this.state.set("waiting");
        if (this.element.isConnected) void this.openShell(session);
    }

    /** A key of the key bar. */
    press(sequence: string): void {
        this.typed(sequence);
        this.terminal.focus();
    }

    /** The sequence an arrow key has in the present cursor mode. */
    arrow(letter: "A" | "B" | "C" | "D"): string {
        return `${this.terminal.modes.applicationCursorKeysMode ? "\x1bO" : "\x1b["}${letter}`;
    }

    close(): void {
        this.closed = true;
        cancelAnimationFrame(this.frame);
        this.observer.disconnect();
        for (const unwatch of this.unwatch) unwatch();
        this.shell?.close();
        this.terminal.dispose();
        this.element.remove();
    }

    private async openShell(session: Session): Promise<void> {
        this.state.set("opening");
        try {
            const size = { cols: this.terminal.cols, rows: this.terminal.rows };
            const shell = await Shell.open(session, size, this.terminal);
            if (this.closed) {
                shell.close();
                return;
            }
            this.shell = shell;
            this.state.set("open");
            if (!this.title.value) this.title.set(shell.program.replace(/^.*\//, ""));
            if (this.terminal.cols !== size.cols || this.terminal.rows !== size.rows)
                void shell.resize(this.terminal);
            this.over("ended", await shell.ended, "Press Enter for a new one.");
        } catch (error) {
            const lost = error instanceof SessionClosed;
            if (lost) this.over("lost", "the connection was lost", "A new shell opens when it is back.");
            else this.over("ended", (error as Error).message, "Press Enter to try again.");
        }
    }

    /** Behind all output: say below what the screen shows that the shell is over. */
    private over(state: "ended" | "lost", what: string, advice: string): void {
        this.shell = null;
        if (this.closed) return;
        if (state === "lost") this.session = null;
        this.state.set(state);
        this.terminal.write("", () => {
            const full = this.terminal.buffer.active.type === "alternate" ? "\x1b[?1049l" : ""; // an editor was open
            this.terminal.write(`${full}\x1b[?25h\x1b[0m\r\n\x1b[2m── ${what}. ${advice} ──\x1b[0m\r\n`);
        });
    }

    private typed(text: string): void {
        let keys = text;
        if (this.control.value && text.length === 1) {
            keys = String.fromCharCode(text.toUpperCase().charCodeAt(0) & 0x1f);
            this.control.set(false);
        }
        if (this.shell) this.send(keys);
        else if (keys === "\r" && this.state.value === "ended" && this.session)
            void this.openShell(this.session);
    }

    private send(keys: string | Uint8Array): void {
        if (this.shell) this.full.set(!this.shell.type(keys));
    }

    private fitSoon(): void {
        cancelAnimationFrame(this.frame);
        this.frame = requestAnimationFrame(() => this.fit());
    }

    private fit(): void {
        if (this.element.isConnected && this.element.clientHeight > 0) this.fitting.fit();
    }
}
