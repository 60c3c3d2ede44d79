// App: what the connection is made of: wire, path, round trip, bytes.

import { useEffect, useState } from "preact/hooks";
import type { Agent } from "../client/agents.ts";
import type { Status } from "../client/connection.ts";
import type { Trust } from "../client/trust.ts";
import { Observable } from "../runtime/observable.ts";
import type { Session, SessionStats } from "../runtime/session.ts";
import { useValue } from "./hooks.ts";
import { reader } from "./settings.ts";

const SECONDS = 1;
const QUIET = new Observable(false);

export function ConnectionPanel({
    session,
    status,
    agent,
    trust,
    leave,
}: {
    session: Session | null;
    status: Status;
    agent: Agent;
    trust: Trust | undefined;
    leave: () => void;
}) {
    const stats = useStats(session);
    const stalled = useValue(session?.stalled ?? QUIET);
    const aloud = useValue(reader);
    const key = useKey(trust, status);
    const peer = session?.peer ?? {};
    return (
        <aside class="panel" aria-label="Connection" data-testid="connection-panel">
            <dl>
                <Fact name="State" value={stalled ? "stalled: nothing arrives" : status.state} />
                <Fact
                    name="Wire"
                    value={stats ? (stats.kind === "webrtc" ? "WebRTC, peer to peer" : stats.kind) : "–"}
                />
                <Fact name="Path" value={stats?.path ?? "–"} />
                <Fact name="Round trip" value={trip(stats)} />
                <Fact name="Sent" value={stats ? bytes(stats.bytesSent) : "–"} />
                <Fact name="Received" value={stats ? bytes(stats.bytesReceived) : "–"} />
                <Fact name="Machine" value={String(peer.platform ?? agent.platform ?? "–")} />
                <Fact name="Agent" value={String(peer.version ?? agent.version ?? "–")} />
                <Fact name="Machine’s key" value={key} />
            </dl>
            <label class="switch">
                <input type="checkbox" checked={aloud} onChange={() => reader.set(!aloud)} />
                Screen reader mode
            </label>
            <button class="button button-quiet panel-leave" type="button" onClick={leave}>
                Disconnect
            </button>
        </aside>
    );
}

function Fact({ name, value }: { name: string; value: string }) {
    return (
        <div class="fact">
            <dt>{name}</dt>
            <dd>{value}</dd>
        </div>
    );
}

/** The machine's key as people compare it, or why there is none. */
function useKey(trust: Trust | undefined, status: Status): string {
    const [words, setWords] = useState("–");
    useEffect(() => {
        let shown = true;
        void trust?.inWords().then((text) => shown && setWords(text));
        return () => {
            shown = false;
        };
    }, [trust, status.state]);
    return words;
}

function useStats(session: Session | null): SessionStats | null {
    const [stats, setStats] = useState<SessionStats | null>(null);
    useEffect(() => {
        setStats(null);
        if (!session) return;
        let shown = true;
        const ask = () => void session.stats().then((next) => shown && setStats(next));
        ask();
        const timer = setInterval(ask, SECONDS * 1000);
        return () => {
            shown = false;
            clearInterval(timer);
        };
    }, [session]);
    return stats;
}

function trip(stats: SessionStats | null): string {
    const milliseconds = stats?.ping ?? stats?.roundTrip ?? null;
    if (milliseconds === null) return "–";
    return milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : `${Math.round(milliseconds)} ms`;
}

function bytes(count: number): string {
    const units = ["B", "KiB", "MiB", "GiB"];
    let rest = count;
    let unit = 0;
    for (; rest >= 1024 && unit < units.length - 1; unit++) rest /= 1024;
    return `${unit === 0 ? rest : rest.toFixed(1)} ${units[unit]}`;
}
