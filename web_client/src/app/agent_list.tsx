// App: the side with the user's machines, who of them is at home, and the account.

import { useState } from "preact/hooks";
import type { Agent } from "../client/agents.ts";
import { type Home, signOut } from "./backend.ts";
import { useValue } from "./hooks.ts";
import { KnownMachines } from "./known_machines.tsx";
import { Icon, Mark } from "./mark.tsx";
import { NoticeBox } from "./notice.tsx";
import { ThemeButton } from "./theme_button.tsx";
import { inWords, since } from "./words.ts";

interface Props {
    readonly home: Home;
    readonly agents: readonly Agent[] | null;
    readonly openId: string | null;
}

export function AgentList({ home, agents, openId }: Props) {
    const trouble = useValue(home.agents.trouble);
    const channel = useValue(home.agents.channelState);
    const [keys, setKeys] = useState(false);
    const online = agents?.filter((agent) => agent.online).length ?? 0;
    return (
        <nav class="side" aria-label="Machines">
            <header class="side-head">
                <a class="brand" href="#/" aria-label="Doorstep, all machines">
                    <Mark />
                    <span class="wordmark">Doorstep</span>
                </a>
                <ThemeButton />
            </header>
            <div class="side-title">
                <h2>Machines</h2>
                <span class="muted" role="status" aria-live="polite">
                    {agents ? `${online} of ${agents.length} online` : ""}
                </span>
            </div>
            {trouble !== null && <NoticeBox notice={inWords(trouble)} />}
            {trouble === null && agents && channel === "lost" && (
                <p class="side-note" role="status">
                    Looking who is at home…
                </p>
            )}
            <ul class="agents">
                {agents === null && trouble === null && [0, 1].map((n) => <li key={n} class="agent-ghost" />)}
                {agents?.map((agent) => (
                    <li key={agent.id}>
                        <Row agent={agent} open={agent.id === openId} />
                    </li>
                ))}
            </ul>
            {agents?.length === 0 && <FirstMachine />}
            <footer class="side-foot">
                <span class="account" title={home.email}>
                    {home.email}
                </span>
                <button
                    class="icon-button"
                    type="button"
                    onClick={() => setKeys(true)}
                    aria-label="Known machines"
                    title="Known machines"
                >
                    <Icon name="key" />
                </button>
                <button
                    class="icon-button"
                    type="button"
                    onClick={signOut}
                    aria-label="Sign out"
                    title="Sign out"
                >
                    <Icon name="leave" />
                </button>
            </footer>
            {keys && <KnownMachines known={home.known} close={() => setKeys(false)} />}
        </nav>
    );
}

function Row({ agent, open }: { agent: Agent; open: boolean }) {
    const state = agent.online === null ? "unknown" : agent.online ? "online" : "offline";
    const detail = agent.online ? (agent.platform ?? "") : since(agent.last_seen);
    return (
        <a
            class={`agent agent-${state}`}
            href={`#/agent/${agent.id}`}
            data-testid="agent-row"
            data-agent={agent.id}
            aria-current={open ? "page" : undefined}
        >
            <span class="dot" aria-hidden="true" />
            <span class="agent-name">{agent.name}</span>
            <span class="agent-state" data-testid="agent-state">
                {state === "unknown" ? "…" : state}
            </span>
            <span class="agent-detail">{detail}</span>
        </a>
    );
}

function FirstMachine() {
    return (
        <div class="first">
            <p>No machine yet. On the one you want to reach, run</p>
            <pre>doorstep agent</pre>
            <p class="muted">and it appears here.</p>
        </div>
    );
}
