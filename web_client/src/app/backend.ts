// App: the back end this page belongs to (Supabase or the hub), who is signed in, and what that user has open.

import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import { Agents } from "../client/agents.ts";
import { Connection } from "../client/connection.ts";
import { KnownAgents } from "../client/known.ts";
import { ownKey } from "../client/own_key.ts";
import { type Introduced, Trust } from "../client/trust.ts";
import { watchForWaking } from "../client/waking.ts";
import { NotSignedIn } from "../protocol/errors.ts";
import type { Signer } from "../protocol/proof.ts";
import { relayUrl } from "../protocol/relay.ts";
import type { IceServer } from "../protocol/signaling.ts";
import { DEFAULT_TIMING } from "../protocol/timing.ts";
import { Observable, type Unwatch } from "../runtime/observable.ts";
import { IceServers } from "../transport/ice_servers.ts";
import { RealtimeSignaling, separateSignaling } from "../transport/realtime.ts";
import { broadcastRoad, type Road, relayRoad } from "../transport/road.ts";
import { Peer } from "../transport/webrtc.ts";
import { force } from "./settings.ts";
import type { Notice } from "./words.ts";
import { Workspace } from "./workspace.ts";

interface Config {
    readonly url: string;
    readonly key: string;
    readonly iceServers?: readonly IceServer[];
    /** A path at the back end or a URL of its own; left out: where a hub has it. */
    readonly relay?: string;
}

/** Everything that belongs to one signed-in user; made anew at every sign-in. */
export class Home {
    readonly email: string;
    readonly userId: string;
    readonly agents: Agents;
    private readonly signaling: RealtimeSignaling;
    private readonly workspaces = new Map<string, Workspace>();
    private readonly iceServers: readonly IceServer[];
    private readonly backend: string;
    private readonly roads: readonly Road[];
    private readonly moreServers: IceServers | null;
    readonly known = new KnownAgents(localStorage);
    private key: Promise<Signer | null> | null = null;
    private readonly unwatch: Unwatch;

    constructor(client: SupabaseClient, config: Config, user: { id: string; email?: string | undefined }) {
        this.email = user.email ?? "";
        this.userId = user.id;
        this.iceServers = config.iceServers ?? [];
        this.backend = config.url;
        this.signaling = new RealtimeSignaling(client, DEFAULT_TIMING);
        this.agents = new Agents(client, this.signaling, user.id, DEFAULT_TIMING);
        const relay = relayOf(config);
        const token = () => accessToken(client);
        const { url, key } = config;
        this.roads = [
            ...(relay === null ? [] : [relayRoad(relay, token, DEFAULT_TIMING)]),
            broadcastRoad(() => separateSignaling(url, key, token, DEFAULT_TIMING), DEFAULT_TIMING),
        ];
        this.moreServers = relay === null ? null : new IceServers(relay, token, DEFAULT_TIMING);
        void this.moreServers?.soon();
        this.unwatch = force.watch(() => {
            for (const workspace of this.workspaces.values()) workspace.connection.reroute();
        });
        void this.agents.start();
    }

    workspace(agentId: string): Workspace {
        const known = this.workspaces.get(agentId);
        if (known) return known;
        const connection = new Connection({
            agentId,
            agents: this.agents,
            signaling: this.signaling,
            iceServers: this.iceServers,
            timing: DEFAULT_TIMING,
            makeTrust: (sessionId) =>
                new Trust(
                    sessionId,
                    () => this.ownKey(),
                    this.known,
                    () => this.introduced(agentId),
                ),
            makePeer: (iceServers, policy) => new Peer(iceServers as RTCIceServer[], DEFAULT_TIMING, policy),
            moreServers: async () => (await this.moreServers?.soon()) ?? [],
            roads: this.roads,
            force: () => force.value,
        });
        const workspace = new Workspace(connection, this.agents.list);
        this.workspaces.set(agentId, workspace);
        return workspace;
    }

    private ownKey(): Promise<Signer | null> {
        this.key ??= ownKey();
        return this.key;
    }

    private introduced(id: string): Introduced {
        const agent = this.agents.list.value?.find((one) => one.id === id);
        const { name = id, public_key: publicKey = null } = agent ?? {};
        return { backend: this.backend, id, name, publicKey };
    }

    /** The page woke up or the network changed: the wires first, which need nobody's token. */
    look(why: string): void {
        for (const workspace of this.workspaces.values()) workspace.connection.hurry(why);
    }

    /** The token is fresh: the channels, and the list. */
    hurry(): void {
        this.signaling.hurry();
        void this.agents.load();
    }

    /** The page goes away for good: machines that still hear of it need not wait for it. */
    leave(): void {
        for (const workspace of this.workspaces.values()) workspace.connection.leave();
    }

    async close(): Promise<void> {
        this.unwatch();
        for (const workspace of this.workspaces.values()) workspace.close();
        this.workspaces.clear();
        await this.agents.close();
        await this.signaling.close();
    }
}

export type Account =
    | { readonly state: "starting" }
    | { readonly state: "unreachable"; readonly notice: Notice }
    | { readonly state: "signed-out"; readonly notice: Notice | null }
    | { readonly state: "signed-in"; readonly home: Home };

export const account = new Observable<Account>({ state: "starting" });

let client: SupabaseClient | null = null;
let config: Config | null = null;
let leaving = false;

const LINK_OVER: Notice = {
    title: "This sign-in link was already used or has expired",
    advice: "Each link works once. On the hub’s machine “doorstep link” prints a new one; or sign in with your password.",
};
const SESSION_OVER: Notice = { title: "Your sign-in has expired", advice: "Sign in again to go on." };

/** Find the back end, use a one-time sign-in token if there is one, else the stored session. */
export async function start(token: string | null): Promise<void> {
    try {
        config = await loadConfig();
    } catch (error) {
        const advice = "Is the hub still running? Start it with “doorstep up”, then reload this page.";
        account.set({ state: "unreachable", notice: { title: "The hub does not answer", advice } });
        console.warn("config.json:", (error as Error).message);
        return;
    }
    client = createClient(config.url, config.key, {
        auth: { detectSessionInUrl: false, persistSession: true, autoRefreshToken: true },
    });
    const notice = token === null ? null : await useToken(client, token);
    client.auth.onAuthStateChange((event, session) => {
        // Not inside the callback: supabase-js holds its lock there.
        setTimeout(() => changed(event, session?.user ?? null, notice), 0);
    });
    watchForWaking(wake);
    addEventListener("pagehide", (event) => {
        const { value } = account;
        if (!event.persisted && value.state === "signed-in") value.home.leave();
    });
}

/** Returns a sentence that says what is wrong, or null. */
export async function signIn(email: string, password: string): Promise<Notice | null> {
    const { error } = (await client?.auth.signInWithPassword({ email, password })) ?? {};
    if (!error) return null;
    if (error.status === 429) return { title: "Too many tries", advice: "Wait a minute, then try again." };
    if (error.status === undefined || error.status === 0 || error.status >= 500)
        return { title: "The back end is not reachable", advice: "Check the network, then try again." };
    return { title: "That did not match", advice: "Check the email address and the password." };
}

export async function signOut(): Promise<void> {
    leaving = true;
    await client?.auth.signOut({ scope: "local" });
}

/** Where the relay is; null if that cannot be a place for access tokens. */
function relayOf({ url, relay }: Config): string | null {
    try {
        return relayUrl(url, relay);
    } catch (error) {
        console.warn("config.json:", (error as Error).message);
        return null;
    }
}

/** For the relay; supabase-js renews it before it ends. Throws `NotSignedIn`. */
async function accessToken(supabase: SupabaseClient): Promise<string> {
    const { data } = await supabase.auth.getSession();
    if (!data.session) throw new NotSignedIn("your sign-in has expired");
    return data.session.access_token;
}

async function loadConfig(): Promise<Config> {
    const response = await fetch("/config.json", { cache: "no-store" });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return (await response.json()) as Config;
}

async function useToken(supabase: SupabaseClient, token: string): Promise<Notice | null> {
    const { error } = await supabase.auth.verifyOtp({ token_hash: token, type: "magiclink" });
    return error ? LINK_OVER : null;
}

function changed(
    event: string,
    user: { id: string; email?: string | undefined } | null,
    notice: Notice | null,
): void {
    const before = account.value;
    if (!client || !config) return;
    if (user) {
        if (before.state === "signed-in" && before.home.userId === user.id) return;
        if (before.state === "signed-in") void before.home.close();
        account.set({ state: "signed-in", home: new Home(client, config, user) });
        return;
    }
    if (before.state === "signed-in") void before.home.close();
    const expired = event === "SIGNED_OUT" && !leaving ? SESSION_OVER : notice;
    leaving = false;
    account.set({ state: "signed-out", notice: event === "INITIAL_SESSION" ? notice : expired });
}

/** After sleep: the wires; and for the channels first a fresh token. */
function wake(why: string): void {
    const { value } = account;
    if (value.state !== "signed-in") return;
    value.home.look(why);
    void client?.auth.getSession().then(() => value.home.hurry());
}
