// App: a problem in words, with what to do about it.

import type { ComponentChildren } from "preact";
import type { Notice } from "./words.ts";

export function NoticeBox({ notice, children }: { notice: Notice; children?: ComponentChildren }) {
    return (
        <div class="notice" role="alert" data-testid="error">
            <strong>{notice.title}</strong>
            <p>{notice.advice}</p>
            {children}
        </div>
    );
}
