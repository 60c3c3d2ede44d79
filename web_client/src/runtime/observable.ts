// Runtime: a value that can be watched. The one way state reaches the page.

export type Unwatch = () => void;

export class Observable<T> {
    private current: T;
    private readonly watchers = new Set<(value: T) => void>();

    constructor(value: T) {
        this.current = value;
    }

    get value(): T {
        return this.current;
    }

    /** The one setter. Watchers hear of it at once; the same value again is not news. */
    set(value: T): void {
        if (Object.is(value, this.current)) return;
        this.current = value;
        for (const watcher of [...this.watchers]) watcher(value);
    }

    watch(watcher: (value: T) => void): Unwatch {
        this.watchers.add(watcher);
        return () => this.watchers.delete(watcher);
    }
}
