// App: the steps of connecting, by their names in the protocol, with what they mean.

import type { Status } from "../client/connection.ts";
import { RETRIES } from "../protocol/limits.ts";
import { Icon } from "./mark.tsx";
import { STEPS } from "./words.ts";

export function Steps({ status, name }: { status: Status; name: string }) {
    const reached = STEPS.findIndex(([state]) => state === status.state);
    return (
        <div class="steps">
            <h2>{heading(status, name)}</h2>
            <ol hidden={status.state === "failed"}>
                {STEPS.map(([state, meaning], index) => {
                    const kind = index < reached ? "done" : index === reached ? "now" : "later";
                    return (
                        <li
                            key={state}
                            class={`step step-${kind}`}
                            aria-current={kind === "now" ? "step" : undefined}
                        >
                            <span class="step-mark" aria-hidden="true">
                                {kind === "done" && <Icon name="check" size={14} />}
                            </span>
                            <span class="step-name">{state}</span>
                            <span class="step-meaning">{meaning}</span>
                        </li>
                    );
                })}
            </ol>
            {status.attempt > 1 && status.state !== "failed" && (
                <p class="steps-note">
                    Attempt {status.attempt} of {RETRIES + 1}
                    {status.reason && ` – ${status.reason}`}
                </p>
            )}
        </div>
    );
}

function heading(status: Status, name: string): string {
    if (status.state === "failed") return `Could not reach ${name}`;
    if (status.state === "retrying") return `${name} did not answer. Trying again…`;
    return `Stepping into ${name}…`;
}
