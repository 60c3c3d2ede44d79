// App: the switch between dark and light.

import { useValue } from "./hooks.ts";
import { Icon } from "./mark.tsx";
import { shade, toggleTheme } from "./theme.ts";

export function ThemeButton() {
    const now = useValue(shade);
    const other = now === "dark" ? "light" : "dark";
    return (
        <button
            class="icon-button"
            type="button"
            onClick={toggleTheme}
            aria-label={`Switch to ${other} colours`}
            title={`Switch to ${other} colours`}
        >
            <Icon name={now === "dark" ? "sun" : "moon"} />
        </button>
    );
}
