// App: xterm.js under a policy of style-src 'self'.
//
// xterm.js 6.0.0 writes its sizes and colours into style elements and into the style attributes of its spans. A strict
// Content-Security-Policy refuses both, but allows the CSSOM: so while a terminal opens, its style elements are
// constructable style sheets, and a span takes its style attribute through the CSSOM. (xterm.js has an option
// `documentOverride`, but its row factory and its scroll bar ask the real document all the same.)

import type { Terminal } from "@xterm/xterm";

const createElement = Document.prototype.createElement;
const setAttribute = Element.prototype.setAttribute;

HTMLSpanElement.prototype.setAttribute = function (name: string, value: string): void {
    if (name === "style") this.style.cssText = value;
    else setAttribute.call(this, name, value);
};

/** `terminal.open(place)`. All style elements of a terminal are made in there. */
export function openStrictly(terminal: Terminal, place: HTMLElement): void {
    const create = (name: string, options?: ElementCreationOptions) =>
        name === "style" ? sheetElement() : createElement.call(document, name, options);
    Object.defineProperty(document, "createElement", { value: create, configurable: true });
    try {
        terminal.open(place);
    } finally {
        Reflect.deleteProperty(document, "createElement"); // the prototype's is back
    }
}

/** An inert element whose text is a style sheet of the document until it is removed. */
function sheetElement(): HTMLElement {
    const element = createElement.call(document, "template");
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text) });
    element.remove = () => {
        document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
        Element.prototype.remove.call(element);
    };
    return element;
}
