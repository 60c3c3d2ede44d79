// App: which page is shown: starting, sign-in, or home with the list of agents and the one that is open.

import { useEffect } from "preact/hooks";
import { AgentList } from "./agent_list.tsx";
import { AgentView } from "./agent_view.tsx";
import { account, type Home } from "./backend.ts";
import { useValue } from "./hooks.ts";
import { Mark } from "./mark.tsx";
import { goTo, openAgent } from "./route.ts";
import { SignIn } from "./sign_in.tsx";

export function App() {
    const now = useValue(account);
    switch (now.state) {
        case "starting":
            return (
                <div class="splash" role="status" aria-label="Opening Doorstep">
                    <Mark size={56} />
                </div>
            );
        case "unreachable":
            return <SignIn notice={now.notice} form={false} />;
        case "signed-out":
            return <SignIn notice={now.notice} form={true} />;
        case "signed-in":
            return <HomePage home={now.home} />;
    }
}

function HomePage({ home }: { home: Home }) {
    const agentId = useValue(openAgent);
    const agents = useValue(home.agents.list);
    const agent = agents?.find((one) => one.id === agentId) ?? null;

    useEffect(() => {
        document.title = agent ? `${agent.name} – Doorstep` : "Doorstep";
        if (agentId && agents && !agent) goTo(null); // removed, or of another account
    }, [agent, agentId, agents]);

    return (
        <div class={agentId ? "home home-open" : "home"}>
            <AgentList home={home} agents={agents} openId={agentId} />
            <main class="main">
                {agent ? (
                    <AgentView key={agent.id} agent={agent} workspace={home.workspace(agent.id)} />
                ) : (
                    <Nothing loading={agentId !== null} />
                )}
            </main>
        </div>
    );
}

function Nothing({ loading }: { loading: boolean }) {
    if (loading) return <div class="nothing" role="status" aria-label="Loading" />;
    return (
        <div class="nothing">
            <Mark size={72} />
            <p>Choose a machine to step in.</p>
        </div>
    );
}
