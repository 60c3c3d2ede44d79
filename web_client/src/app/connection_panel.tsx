// App: what the connection is made of, looked at once a second while the panel is open; every fact keeps its place.

import { useEffect, useState } from "preact/hooks";
import type { Agent } from "../client/agents.ts";
import type { Connection, Status } from "../client/connection.ts";
import type { Trust } from "../client/trust.ts";
import { Observable } from "../runtime/observable.ts";
import type { Session, SessionStats } from "../runtime/session.ts";
import { useValue } from "./hooks.ts";
import { force, isForce, reader } from "./settings.ts";

const SECONDS = 1;
const QUIET = new Observable(false);
const NOTHING = "–";

interface Props {
    readonly connection: Connection;
    readonly session: Session | null;
    readonly status: Status;
    readonly agent: Agent;
    readonly leave: () => void;
}

export function ConnectionPanel({ connection, session, status, agent, leave }: Props) {
    const { stats, out, in: into, reason } = useLook(connection, session);
    const stalled = useValue(session?.stalled ?? QUIET);
    const key = useKey(connection.trust, status);
    const peer = session?.peer ?? {};
    const agentAbout = [peer.version ?? agent.version, peer.platform ?? agent.platform];
    return (
        <aside class="panel" aria-label="Connection" data-testid="connection-panel">
            <dl>
                <Fact name="State" value={stateInWords(status, stalled)} />
                <Fact name="Wire" value={stats ? wireInWords(stats) : NOTHING} size="wide" />
                <Fact name="Path" value={stats?.path ?? NOTHING} size="wide" />
                <Fact name="Round trip" value={trip(stats)} />
                <Fact
                    name="Loss"
                    value={stats?.loss === undefined ? NOTHING : `${(stats.loss * 100).toFixed(1)} %`}
                />
                <Fact name="Sending" value={rate(out)} />
                <Fact name="Receiving" value={rate(into)} />
                <Fact name="Waiting to be sent" value={stats ? bytes(waiting(stats)) : NOTHING} />
                <Fact
                    name="Sent, received"
                    value={stats ? `${bytes(stats.bytesSent)}, ${bytes(stats.bytesReceived)}` : NOTHING}
                    size="wide"
                />
                <Fact name="Agent" value={agentAbout.filter(Boolean).join(", ") || NOTHING} size="wide" />
                <Fact name="Machine’s key" value={key} size="whole" />
                <Fact
                    name="Why not WebRTC"
                    value={(stats?.kind !== "webrtc" && reason) || NOTHING}
                    size="row"
                />
            </dl>
            <div class="panel-foot">
                <ForceChoice />
                <ReaderSwitch />
                <span class="spring" />
                <button class="button button-quiet panel-leave" type="button" onClick={leave}>
                    Disconnect
                </button>
            </div>
        </aside>
    );
}

function ForceChoice() {
    const chosen = useValue(force);
    return (
        <label class="choice">
            Connect by
            <select
                value={chosen ?? ""}
                onChange={({ currentTarget: { value } }) => force.set(isForce(value) ? value : null)}
            >
                <option value="">whatever is best</option>
                <option value="direct">WebRTC without TURN only</option>
                <option value="turn">WebRTC through TURN only</option>
                <option value="relay">the relay only</option>
                <option value="broadcast">broadcasts only (slow)</option>
            </select>
        </label>
    );
}

function ReaderSwitch() {
    const aloud = useValue(reader);
    return (
        <label class="switch">
            <input type="checkbox" checked={aloud} onChange={() => reader.set(!aloud)} />
            Screen reader mode
        </label>
    );
}

interface FactProps {
    readonly name: string;
    readonly value: string;
    /** How much room it has: two cells, three, or a row. */
    readonly size?: "wide" | "whole" | "row";
}

function Fact({ name, value, size }: FactProps) {
    return (
        <div class={size ? `fact fact-${size}` : "fact"}>
            <dt>{name}</dt>
            <dd title={value}>{value}</dd>
        </div>
    );
}

/** The machine's key as people compare it, or why there is none. */
function useKey(trust: Trust | undefined, status: Status): string {
    const [words, setWords] = useState(NOTHING);
    useEffect(() => {
        let shown = true;
        void trust?.inWords().then((text) => shown && setWords(text));
        return () => {
            shown = false;
        };
    }, [trust, status.state]);
    return words;
}

interface Look {
    readonly stats: SessionStats | null;
    /** Bytes per second since the last look, each way; null at the first look at a wire. */
    readonly out: number | null;
    readonly in: number | null;
    readonly reason: string;
    readonly at: number;
}

const BLIND: Look = { stats: null, out: null, in: null, reason: "", at: 0 };

function useLook(connection: Connection, session: Session | null): Look {
    const [look, setLook] = useState(BLIND);
    useEffect(() => {
        setLook(BLIND);
        let shown = true;
        const ask = async () => {
            const stats = (await session?.stats()) ?? null;
            if (shown) setLook((last) => compared(last, stats, connection.relayReason));
        };
        void ask();
        const timer = setInterval(() => void ask(), SECONDS * 1000);
        return () => {
            shown = false;
            clearInterval(timer);
        };
    }, [connection, session]);
    return look;
}

function compared(last: Look, stats: SessionStats | null, reason: string): Look {
    const at = performance.now();
    if (!stats || stats.wires !== last.stats?.wires) return { stats, out: null, in: null, reason, at };
    const seconds = Math.max((at - last.at) / 1000, 0.001);
    return {
        stats,
        out: Math.max(0, stats.bytesSent - last.stats.bytesSent) / seconds,
        in: Math.max(0, stats.bytesReceived - last.stats.bytesReceived) / seconds,
        reason,
        at,
    };
}

function stateInWords({ state, attempt }: Status, stalled: boolean): string {
    if (state === "connected") return stalled ? "stalled: nothing arrives" : state;
    return attempt > 1 ? `${state}, attempt ${attempt}` : state;
}

function wireInWords({ kind, turn }: SessionStats): string {
    if (kind === "webrtc") return turn ? "WebRTC through TURN" : "WebRTC, peer to peer";
    if (kind === "broadcast") return "Broadcasts: slow, sealed end to end";
    return kind === "relay" ? "Relay, sealed end to end" : kind;
}

/** What the browser holds, and what is kept until the machine has it. */
function waiting({ buffered = 0, unacknowledged }: SessionStats): number {
    return Math.max(buffered, unacknowledged);
}

function trip(stats: SessionStats | null): string {
    const milliseconds = stats?.ping ?? stats?.roundTrip ?? null;
    if (milliseconds === null) return NOTHING;
    return milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : `${Math.round(milliseconds)} ms`;
}

function rate(perSecond: number | null): string {
    return perSecond === null ? NOTHING : `${bytes(Math.round(perSecond))}/s`;
}

function bytes(count: number): string {
    const units = ["B", "KiB", "MiB", "GiB"];
    let rest = count;
    let unit = 0;
    for (; rest >= 1024 && unit < units.length - 1; unit++) rest /= 1024;
    return `${unit === 0 ? rest : rest.toFixed(1)} ${units[unit]}`;
}
