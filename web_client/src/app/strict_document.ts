// App: a view of the document in which xterm.js keeps to a policy of style-src 'self'.
//
// xterm.js writes its sizes and colours into style elements and style attributes; a strict Content-Security-Policy
// refuses both, but allows the CSSOM. xterm.js takes a `documentOverride`, so it is given a document whose style
// elements are constructable style sheets and whose spans take the style attribute through the CSSOM.

/** The value for xterm.js's `documentOverride`. */
export function strictDocument(): Document {
    return new Proxy(document, {
        get(target, property) {
            if (property === "createElement") return createElement;
            const value: unknown = Reflect.get(target, property, target);
            return typeof value === "function" ? value.bind(target) : value;
        },
        set: (target, property, value) => Reflect.set(target, property, value, target),
    });
}

function createElement(name: string, options?: ElementCreationOptions): HTMLElement {
    if (name === "style") return sheetElement();
    const element = document.createElement(name, options);
    if (name === "span") element.setAttribute = setAttribute;
    return element;
}

/** An inert element whose text is a style sheet of the document until it is removed. */
function sheetElement(): HTMLElement {
    const element = document.createElement("template");
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text) });
    element.remove = () => {
        document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
        Element.prototype.remove.call(element);
    };
    return element;
}

function setAttribute(this: HTMLElement, name: string, value: string): void {
    if (name === "style") this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
}
