// App: dark, light or as the system says; and the colours xterm.js takes from the page.

import type { ITheme } from "@xterm/xterm";
import { Observable } from "../runtime/observable.ts";

export type Theme = "system" | "dark" | "light";

const KEY = "doorstep.theme";
const prefersLight = matchMedia("(prefers-color-scheme: light)");

export const theme = new Observable<Theme>(stored());
/** What is shown now. */
export const shade = new Observable<"dark" | "light">(resolved());

export function startTheme(): void {
    const apply = () => {
        shade.set(resolved());
        document.documentElement.dataset.theme = shade.value;
    };
    theme.watch((next) => {
        if (next === "system") localStorage.removeItem(KEY);
        else localStorage.setItem(KEY, next);
        apply();
    });
    prefersLight.addEventListener("change", apply);
    apply();
}

/** The other shade, remembered only while it differs from the system's. */
export function toggleTheme(): void {
    const next = shade.value === "dark" ? "light" : "dark";
    theme.set(next === (prefersLight.matches ? "light" : "dark") ? "system" : next);
}

function stored(): Theme {
    const text = localStorage.getItem(KEY);
    return text === "dark" || text === "light" ? text : "system";
}

function resolved(): "dark" | "light" {
    if (theme.value !== "system") return theme.value;
    return prefersLight.matches ? "light" : "dark";
}

/** Sixteen colours that keep their contrast on the page's own ground. */
export const TERMINAL_THEMES: Readonly<Record<"dark" | "light", ITheme>> = {
    dark: {
        background: "#0d1110",
        foreground: "#e6e3da",
        cursor: "#f0b45b",
        cursorAccent: "#0d1110",
        selectionBackground: "#f0b45b44",
        scrollbarSliderBackground: "#ffffff1c",
        scrollbarSliderHoverBackground: "#ffffff30",
        scrollbarSliderActiveBackground: "#ffffff45",
        black: "#232a28",
        red: "#ef8672",
        green: "#8ac99a",
        yellow: "#e9bd6e",
        blue: "#86b4dd",
        magenta: "#cfa1cf",
        cyan: "#7cc6bf",
        white: "#d8d5cb",
        brightBlack: "#7b8682",
        brightRed: "#ffa593",
        brightGreen: "#a9e0b6",
        brightYellow: "#ffd791",
        brightBlue: "#a9cff2",
        brightMagenta: "#e6bfe6",
        brightCyan: "#9fe0d9",
        brightWhite: "#faf8f2",
    },
    light: {
        background: "#fffdf9",
        foreground: "#29261f",
        cursor: "#a55c08",
        cursorAccent: "#fffdf9",
        selectionBackground: "#d9942f55",
        scrollbarSliderBackground: "#0000001c",
        scrollbarSliderHoverBackground: "#00000030",
        scrollbarSliderActiveBackground: "#00000045",
        black: "#29261f",
        red: "#b03a26",
        green: "#2d7548",
        yellow: "#8c5a00",
        blue: "#2462a0",
        magenta: "#8a3d8a",
        cyan: "#14706a",
        white: "#8c8678",
        brightBlack: "#6d675b",
        brightRed: "#c9432c",
        brightGreen: "#2f8753",
        brightYellow: "#9d6700",
        brightBlue: "#2a72bb",
        brightMagenta: "#a04aa0",
        brightCyan: "#17827b",
        brightWhite: "#4a463d",
    },
};
