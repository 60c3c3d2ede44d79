// App: the keys a touch keyboard lacks.

import { useValue } from "./hooks.ts";
import type { TerminalTab } from "./terminal_tab.ts";

const ARROWS = [
    ["←", "Left", "D"],
    ["↓", "Down", "B"],
    ["↑", "Up", "A"],
    ["→", "Right", "C"],
] as const;

/** Keep the focus, and with it the touch keyboard, in the terminal. */
const keepFocus = (event: Event) => event.preventDefault();

export function KeyBar({ tab }: { tab: TerminalTab }) {
    const control = useValue(tab.control);
    return (
        <div class="keys" role="toolbar" aria-label="Terminal keys" onPointerDown={keepFocus}>
            <button type="button" onClick={() => tab.press("\x1b")}>
                Esc
            </button>
            <button type="button" onClick={() => tab.press("\t")}>
                Tab
            </button>
            <button type="button" aria-pressed={control} onClick={() => tab.control.set(!control)}>
                Ctrl
            </button>
            {ARROWS.map(([sign, name, letter]) => (
                <button
                    key={letter}
                    type="button"
                    aria-label={name}
                    onClick={() => tab.press(tab.arrow(letter))}
                >
                    {sign}
                </button>
            ))}
            <button type="button" onClick={() => tab.press("|")}>
                |
            </button>
            <button type="button" onClick={() => tab.press("/")}>
                /
            </button>
        </div>
    );
}
