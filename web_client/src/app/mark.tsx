// App: the mark (a door ajar, light behind it) and the few icons, drawn here so that nothing is fetched.

export function Mark({ size = 28 }: { size?: number }) {
    return (
        <svg class="mark" width={size} height={size} viewBox="0 0 32 32" fill="none" aria-hidden="true">
            <path class="mark-light" d="M16.5 6.9a6 6 0 0 1 5.3 5.9v12.6h-5.3Z" />
            <path class="mark-spill" d="M15.6 28.2h7.3l2.9 3H13.6Z" />
            <path class="mark-frame" d="M9 26.4V12.8a7 7 0 0 1 14 0v13.6M4.5 26.4h23M13.4 17.2v1.7" />
        </svg>
    );
}

const PATHS = {
    back: "M14.5 5.5 8 12l6.5 6.5",
    plus: "M12 6v12M6 12h12",
    close: "m7.5 7.5 9 9m0-9-9 9",
    sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 3v1.5m0 15V21m9-9h-1.5m-15 0H3m15.4-6.4-1.1 1.1M6.7 17.3l-1.1 1.1m12.8 0-1.1-1.1M6.7 6.7 5.6 5.6",
    moon: "M19.5 14.2A8 8 0 0 1 9.8 4.5a8 8 0 1 0 9.7 9.7Z",
    leave: "M10 4.5H6.5a1 1 0 0 0-1 1v13a1 1 0 0 0 1 1H10M14 8l4 4-4 4m4-4H9.5",
    pulse: "M3.5 12.5h4l2.5-7 4 13 2.5-6h4",
    key: "M8 11.5a3.8 3.8 0 1 0 0 7.6 3.8 3.8 0 0 0 0-7.6ZM10.7 12.6l8-8m-3 3 2.8 2.8m-5 -.6 1.9 1.9",
    check: "m6.5 12.5 3.8 3.8 7.2-8",
} as const;

export function Icon({ name, size = 20 }: { name: keyof typeof PATHS; size?: number }) {
    return (
        <svg class="icon" width={size} height={size} viewBox="0 0 24 24" fill="none" aria-hidden="true">
            <path d={PATHS[name]} />
        </svg>
    );
}
