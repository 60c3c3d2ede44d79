// App: observables as Preact state.

import { useEffect, useState } from "preact/hooks";
import type { Observable } from "../runtime/observable.ts";

/** The present value; the component renders again when it changes. */
export function useValue<T>(observable: Observable<T>): T {
    const [value, setValue] = useState(observable.value);
    useEffect(() => {
        setValue(() => observable.value);
        return observable.watch((next) => setValue(() => next));
    }, [observable]);
    return observable.value === value ? value : observable.value;
}
