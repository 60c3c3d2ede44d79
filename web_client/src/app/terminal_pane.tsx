// App: the terminal tabs and the place where the active one is shown.

import { useLayoutEffect, useRef } from "preact/hooks";
import { useValue } from "./hooks.ts";
import { Icon } from "./mark.tsx";
import type { TerminalTab } from "./terminal_tab.ts";
import { MOST_TABS, type Workspace } from "./workspace.ts";

interface TabsProps {
    readonly workspace: Workspace;
    readonly tabs: readonly TerminalTab[];
    readonly active: TerminalTab | null;
}

export function Tabs({ workspace, tabs, active }: TabsProps) {
    const move = (event: KeyboardEvent) => {
        const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
        if (step === 0 || !active) return;
        event.preventDefault();
        const next = tabs[(tabs.indexOf(active) + step + tabs.length) % tabs.length];
        if (next) workspace.active.set(next);
    };
    return (
        <div class="tabs">
            <div class="tabs-list" role="tablist" aria-label="Terminals" onKeyDown={move}>
                {tabs.map((tab) => (
                    <TabButton key={tab.number} tab={tab} workspace={workspace} selected={tab === active} />
                ))}
            </div>
            <button
                class="icon-button"
                type="button"
                aria-label="New terminal"
                title="New terminal"
                data-testid="new-terminal"
                disabled={tabs.length >= MOST_TABS}
                onClick={() => workspace.addTab()}
            >
                <Icon name="plus" />
            </button>
        </div>
    );
}

function TabButton({
    tab,
    workspace,
    selected,
}: {
    tab: TerminalTab;
    workspace: Workspace;
    selected: boolean;
}) {
    const title = useValue(tab.title);
    const state = useValue(tab.state);
    const name = `${tab.number} ${title || "terminal"}`;
    return (
        <div class={`tab tab-${state}${selected ? " tab-selected" : ""}`}>
            <button
                class="tab-name"
                type="button"
                role="tab"
                aria-selected={selected}
                tabIndex={selected ? 0 : -1}
                title={title}
                onClick={() => {
                    workspace.active.set(tab);
                    tab.focus();
                }}
            >
                <span class="tab-number">{tab.number}</span>
                {title || "terminal"}
            </button>
            <button
                class="tab-close"
                type="button"
                aria-label={`Close terminal ${name}`}
                onClick={() => workspace.closeTab(tab)}
            >
                <Icon name="close" size={14} />
            </button>
        </div>
    );
}

export function TerminalPane({ tab }: { tab: TerminalTab }) {
    const place = useRef<HTMLDivElement>(null);
    // Before the next key: a layout effect, so that what is typed after a click on a tab goes into it.
    useLayoutEffect(() => {
        place.current?.append(tab.element);
        tab.show();
        return () => tab.hide();
    }, [tab]);
    return <div class="pane" role="tabpanel" data-testid="terminal" ref={place} />;
}
