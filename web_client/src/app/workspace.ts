// App: one agent's workspace: its connection and its terminal tabs. Lives on while another agent is looked at.

import type { Agent } from "../client/agents.ts";
import type { Connection } from "../client/connection.ts";
import type { Key } from "../client/known.ts";
import { AgentUnreachable } from "../protocol/errors.ts";
import { Observable } from "../runtime/observable.ts";
import type { Session } from "../runtime/session.ts";
import { TerminalTab } from "./terminal_tab.ts";

/** Enough for anyone's hands, and far below the streams of one session. */
export const MOST_TABS = 16;

export class Workspace {
    readonly connection: Connection;
    readonly tabs = new Observable<readonly TerminalTab[]>([]);
    readonly active = new Observable<TerminalTab | null>(null);
    private nextNumber = 1;
    private online = false;

    constructor(connection: Connection, agents: Observable<readonly Agent[] | null>) {
        this.connection = connection;
        connection.session.watch((session) => this.sessionChanged(session));
        agents.watch((list) => this.presenceChanged(list));
    }

    /** Connect if need be. */
    enter(): void {
        this.connection.connect();
    }

    /** The changed key that was refused, if one was. */
    refusedKey(): Key | null {
        return this.connection.trust?.refused ?? null;
    }

    /** By the user's explicit wish: know the machine by its new key, and connect. */
    acceptKey(): void {
        this.connection.trust?.accept();
        this.enter();
    }

    addTab(): void {
        if (this.tabs.value.length >= MOST_TABS) return;
        const tab = new TerminalTab(this.nextNumber++);
        this.tabs.set([...this.tabs.value, tab]);
        this.active.set(tab);
        const session = this.connection.session.value;
        if (session) tab.use(session);
    }

    closeTab(tab: TerminalTab): void {
        const left = this.tabs.value.filter((other) => other !== tab);
        const index = this.tabs.value.indexOf(tab);
        this.tabs.set(left);
        if (this.active.value === tab) this.active.set(left[Math.min(index, left.length - 1)] ?? null);
        tab.close();
    }

    /** End the connection and every shell. */
    close(): void {
        for (const tab of this.tabs.value) tab.close();
        this.tabs.set([]);
        this.active.set(null);
        this.connection.close();
    }

    /** Back again: no need to wait for the next try, nor for a click if it could not be reached before. */
    private presenceChanged(agents: readonly Agent[] | null): void {
        const online = agents?.find((agent) => agent.id === this.connection.agentId)?.online ?? false;
        const news = online !== this.online;
        this.online = online;
        if (!online) return;
        if (news) this.connection.hurry("the machine is online again");
        else if (this.connection.error.value instanceof AgentUnreachable) this.connection.connect();
    }

    private sessionChanged(session: Session | null): void {
        if (!session) return;
        for (const tab of this.tabs.value) tab.use(session);
        if (this.tabs.value.length === 0) this.addTab();
    }
}
