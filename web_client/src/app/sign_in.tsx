// App: the sign-in page. The one-time link needs no form; this is for everyone who comes without one.

import { useState } from "preact/hooks";
import { signIn } from "./backend.ts";
import { Mark } from "./mark.tsx";
import { NoticeBox } from "./notice.tsx";
import { ThemeButton } from "./theme_button.tsx";
import type { Notice } from "./words.ts";

export function SignIn({ notice, form }: { notice: Notice | null; form: boolean }) {
    const [wrong, setWrong] = useState<Notice | null>(null);
    const [busy, setBusy] = useState(false);
    const shown = wrong ?? notice;

    const submit = async (event: SubmitEvent) => {
        event.preventDefault();
        const fields = new FormData(event.currentTarget as HTMLFormElement);
        setBusy(true);
        setWrong(null);
        try {
            setWrong(await signIn(String(fields.get("email")), String(fields.get("password"))));
        } finally {
            setBusy(false);
        }
    };

    return (
        <main class="sign-in" data-testid="sign-in">
            <div class="sign-in-corner">
                <ThemeButton />
            </div>
            <div class="doorway">
                <header class="doorway-head">
                    <Mark size={52} />
                    <h1 class="wordmark">Doorstep</h1>
                    <p class="muted">Your own machines, one step away.</p>
                </header>
                {shown && <NoticeBox notice={shown} />}
                {form && (
                    <form class="form" onSubmit={submit}>
                        <label class="field">
                            <span>Email</span>
                            <input
                                name="email"
                                type="email"
                                autocomplete="username"
                                required
                                spellcheck={false}
                            />
                        </label>
                        <label class="field">
                            <span>Password</span>
                            <input name="password" type="password" autocomplete="current-password" required />
                        </label>
                        <button class="button button-main" type="submit" disabled={busy}>
                            {busy ? "Signing in…" : "Sign in"}
                        </button>
                        <p class="hint">
                            On the hub’s machine, <code>doorstep link</code> prints a link that signs you in.
                        </p>
                    </form>
                )}
            </div>
        </main>
    );
}
