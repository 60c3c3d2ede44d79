// App: one machine: how the connection stands, its terminal tabs, and what to do when it ends.

import { useEffect, useState } from "preact/hooks";
import type { Agent } from "../client/agents.ts";
import type { Status } from "../client/connection.ts";
import { Observable } from "../runtime/observable.ts";
import type { Session, SessionState } from "../runtime/session.ts";
import { ChangedKey } from "./changed_key.tsx";
import { ConnectionPanel } from "./connection_panel.tsx";
import { useValue } from "./hooks.ts";
import { KeyBar } from "./key_bar.tsx";
import { Icon } from "./mark.tsx";
import { NoticeBox } from "./notice.tsx";
import { goTo } from "./route.ts";
import { Steps } from "./steps.tsx";
import { Tabs, TerminalPane } from "./terminal_pane.tsx";
import { inWords } from "./words.ts";
import type { Workspace } from "./workspace.ts";

const NONE = new Observable<SessionState>("new");
const NEVER = new Observable(false);

export function AgentView({ agent, workspace }: { agent: Agent; workspace: Workspace }) {
    const { connection } = workspace;
    const connecting = useValue(connection.status);
    const session = useValue(connection.session);
    const tabs = useValue(workspace.tabs);
    const active = useValue(workspace.active);
    const status = shown(connecting, useValue(session?.state ?? NONE));
    const [details, setDetails] = useState(false);

    useEffect(() => workspace.enter(), [workspace]);

    const disconnect = () => {
        workspace.close();
        goTo(null);
    };

    return (
        <section class="view" aria-label={agent.name}>
            <header class="view-head">
                <a class="icon-button view-back" href="#/" aria-label="All machines">
                    <Icon name="back" />
                </a>
                <h1 class="view-name">{agent.name}</h1>
                <StateLabel status={status} />
                <span class="spring" />
                <button
                    class="icon-button"
                    type="button"
                    aria-expanded={details}
                    aria-label="Connection details"
                    title="Connection details"
                    onClick={() => setDetails(!details)}
                >
                    <Icon name="pulse" />
                </button>
                <button class="button button-quiet view-leave" type="button" onClick={disconnect}>
                    Disconnect
                </button>
            </header>
            {details && (
                <ConnectionPanel
                    connection={connection}
                    session={session}
                    status={status}
                    agent={agent}
                    leave={disconnect}
                />
            )}
            {tabs.length > 0 && status.state !== "connected" && <Interruption workspace={workspace} />}
            {tabs.length > 0 && <Tabs workspace={workspace} tabs={tabs} active={active} />}
            <div class="stage">
                {tabs.length > 0 && status.state !== "connected" && (
                    <Reconnecting workspace={workspace} agent={agent} session={session} />
                )}
                {active ? (
                    <TerminalPane key={active.number} tab={active} />
                ) : (
                    <Threshold workspace={workspace} status={status} agent={agent} />
                )}
            </div>
            {active && <KeyBar tab={active} />}
        </section>
    );
}

/** What is going on as its user sees it: a session with a wire is connected, whatever is made beside it. */
function shown(status: Status, session: SessionState): Status {
    if (session === "open") return { ...status, state: "connected" };
    const between = ["idle", "connected", "failed"].includes(status.state);
    return session === "away" && between ? { ...status, state: "retrying" } : status;
}

/** The state by its name, with the attempt while there is one going on. */
function StateLabel({ status }: { status: Status }) {
    const going = !["idle", "connected", "failed"].includes(status.state);
    return (
        <span class={`state state-${status.state}`} role="status" aria-live="polite">
            <span class="dot" aria-hidden="true" />
            <span data-testid="connection-state">{status.state}</span>
            {going && status.attempt > 1 && <span class="state-attempt">attempt {status.attempt}</span>}
        </span>
    );
}

/** Before the first shell: the steps of connecting, or why it did not work. */
function Threshold({ workspace, status, agent }: { workspace: Workspace; status: Status; agent: Agent }) {
    const error = useValue(workspace.connection.error);
    if (status.state === "connected")
        return (
            <div class="threshold">
                <p class="muted">No terminal is open.</p>
                <button class="button button-main" type="button" onClick={() => workspace.addTab()}>
                    Open a terminal
                </button>
            </div>
        );
    return (
        <div class="threshold">
            <Steps status={status} name={agent.name} />
            {error && (
                <NoticeBox notice={inWords(error)}>
                    <ChangedKey workspace={workspace} error={error} />
                    <button class="button button-main" type="button" onClick={() => workspace.enter()}>
                        Try again
                    </button>
                </NoticeBox>
            )}
        </div>
    );
}

/** Shells were open and the connection has ended for good: say so above what they still show. */
function Interruption({ workspace }: { workspace: Workspace }) {
    const error = useValue(workspace.connection.error);
    if (!error) return null;
    return (
        <div class="interruption">
            <NoticeBox notice={inWords(error)}>
                <ChangedKey workspace={workspace} error={error} />
                <button class="button button-main" type="button" onClick={() => workspace.enter()}>
                    Reconnect
                </button>
            </NoticeBox>
        </div>
    );
}

interface ReconnectingProps {
    readonly workspace: Workspace;
    readonly agent: Agent;
    readonly session: Session | null;
}

/** Lies over the terminal: whatever resized it would redraw every program in it, twice per interruption. */
function Reconnecting({ workspace, agent, session }: ReconnectingProps) {
    const error = useValue(workspace.connection.error);
    const active = useValue(workspace.active);
    const full = useValue(active?.full ?? NEVER);
    if (error) return null;
    return (
        <p class="reconnecting" role="status" data-testid="interruption">
            {session ? "Connection lost." : "Session ended."}{" "}
            {agent.online === false ? "The machine is offline. " : ""}
            Reconnecting… {session && !full && "Your shells go on where they are, and what you type is kept."}
            {session && full && "Too much was typed ahead: further keys are not taken."}
        </p>
    );
}
