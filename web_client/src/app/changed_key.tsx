// App: a machine whose key has changed: what to compare, and accepting it, which nothing but this button does.

import { useState } from "preact/hooks";
import { PeerNotTrusted } from "../protocol/errors.ts";
import type { Workspace } from "./workspace.ts";

export function ChangedKey({ workspace, error }: { workspace: Workspace; error: unknown }) {
    const [compared, setCompared] = useState(false);
    const refused = error instanceof PeerNotTrusted ? workspace.refusedKey() : null;
    if (!refused) return null;
    return (
        <div class="changed-key">
            <p>
                If its agent was set up anew, run <code>doorstep known --own</code> there. Its agent’s key
                must read
            </p>
            <p>
                <code data-testid="refused-key">{refused.fingerprint}</code>
            </p>
            <label class="switch">
                <input type="checkbox" checked={compared} onChange={() => setCompared(!compared)} />I have
                compared them; they are equal
            </label>
            <button
                class="button button-quiet"
                type="button"
                disabled={!compared}
                onClick={() => workspace.acceptKey()}
            >
                Accept the new key
            </button>
        </div>
    );
}
