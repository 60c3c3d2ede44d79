// App: the machines whose keys this browser knows, and forgetting one, which nothing but two presses do.

import { useEffect, useRef, useState } from "preact/hooks";
import type { KnownAgent, KnownAgents } from "../client/known.ts";
import { Icon } from "./mark.tsx";

export function KnownMachines({ known, close }: { known: KnownAgents; close: () => void }) {
    const dialog = useRef<HTMLDialogElement>(null);
    const [pins, setPins] = useState(() => read(known));
    const [asked, setAsked] = useState<KnownAgent | null>(null);

    useEffect(() => dialog.current?.showModal(), []);

    const forget = (pin: KnownAgent) => {
        known.forget(pin);
        setPins(read(known));
        setAsked(null);
        dialog.current?.querySelector<HTMLElement>(".dialog-close")?.focus(); // the button that had it is gone
    };

    const repair = () => {
        known.forgetAll();
        setPins(read(known));
    };

    return (
        <dialog ref={dialog} class="dialog" aria-labelledby="known-title" data-testid="known" onClose={close}>
            <header class="dialog-head">
                <h2 id="known-title">Known machines</h2>
                <button
                    class="icon-button dialog-close"
                    type="button"
                    aria-label="Close"
                    onClick={() => dialog.current?.close()}
                >
                    <Icon name="close" />
                </button>
            </header>
            <p class="muted">
                This browser has met these machines and connects to them only while they show the same key.{" "}
                <code>doorstep known --own</code> prints a machine’s key on the machine.
            </p>
            {pins === null && <Damaged repair={repair} />}
            {pins?.length === 0 && <p class="known-none">None yet.</p>}
            <ul class="known">
                {pins?.map((pin) => (
                    <li key={`${pin.backend} ${pin.id}`}>
                        <Known
                            pin={pin}
                            asked={asked === pin}
                            ask={() => setAsked(pin)}
                            keep={() => setAsked(null)}
                            forget={() => forget(pin)}
                        />
                    </li>
                ))}
            </ul>
        </dialog>
    );
}

interface KnownProps {
    readonly pin: KnownAgent;
    readonly asked: boolean;
    readonly ask: () => void;
    readonly keep: () => void;
    readonly forget: () => void;
}

function Known({ pin, asked, ask, keep, forget }: KnownProps) {
    const safe = useRef<HTMLButtonElement>(null);
    useEffect(() => {
        if (asked) safe.current?.focus();
    }, [asked]);
    return (
        <>
            <div class="known-row">
                <div>
                    <strong>{pin.name}</strong> <span class="muted">since {day(pin.since)}</span>
                    <code class="known-key">{pin.fingerprint}</code>
                    {pin.refused && (
                        <p class="known-refused">
                            Another key was refused: <code>{pin.refused.fingerprint}</code>
                        </p>
                    )}
                </div>
                <button
                    class="button button-quiet"
                    type="button"
                    disabled={asked}
                    aria-label={`Forget the key of ${pin.name}`}
                    onClick={ask}
                >
                    Forget
                </button>
            </div>
            {asked && (
                <div class="notice" role="alertdialog" aria-label={`Forget the key of ${pin.name}?`}>
                    <strong>Forget the key of {pin.name}?</strong>
                    <p>
                        Whoever answers as {pin.name} next will be believed, and its key kept. Forget it only
                        if you have set the machine up anew, and compare the new key with what the machine
                        prints.
                    </p>
                    <div class="known-answer">
                        <button ref={safe} class="button button-quiet" type="button" onClick={keep}>
                            Keep it
                        </button>
                        <button class="button button-bad" type="button" onClick={forget}>
                            Forget the key
                        </button>
                    </div>
                </div>
            )}
        </>
    );
}

function Damaged({ repair }: { repair: () => void }) {
    return (
        <div class="notice" role="alert">
            <strong>The list is damaged</strong>
            <p>No machine can be checked. Forgetting all of them starts anew: compare each key then.</p>
            <button class="button button-bad" type="button" onClick={repair}>
                Forget all machines
            </button>
        </div>
    );
}

/** null: the list is damaged. */
function read(known: KnownAgents): readonly KnownAgent[] | null {
    try {
        return known.all();
    } catch (error) {
        console.warn((error as Error).message);
        return null;
    }
}

function day(since: number): string {
    return new Date(since * 1000).toLocaleDateString(undefined, { dateStyle: "medium" });
}
