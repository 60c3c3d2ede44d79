// What a peer of the tests and the benchmark does with its channels, by their labels:
//   echo…   sends every message back, and so does terminal-io: our road knows keystrokes by that label
//   sink    counts bytes; the text "count" is answered with the number
//   source  the text "send TOTAL SIZE" is answered with that many bytes
// A channel here is {label, send, buffered, low(callback)}; messages come to serve(channel)(data).

const HIGH = 1 << 20;
export const LABELS = { echo: "terminal-io", sink: "sink", source: "source" };

export function serve(channel) {
  let bytes = 0;
  if (channel.label.startsWith("echo") || channel.label === LABELS.echo) return (data) => channel.send(data);
  if (channel.label === "sink")
    return (data) => {
      if (typeof data !== "string") bytes += data.byteLength;
      else {
        channel.send(String(bytes));
        bytes = 0;
      }
    };
  return (data) => {
    const [, total, size] = data.split(" ").map(Number);
    pour(channel, total, size);
  };
}

export async function pour(channel, total, size) {
  const message = new Uint8Array(size).fill(7);
  for (let sent = 0; sent < total; sent += size) {
    channel.send(size <= total - sent ? message : message.subarray(0, total - sent));
    if (channel.buffered() > HIGH) await new Promise((resolve) => channel.low(resolve));
  }
}

export class Near {
  // Measures over channels {echo, sink, source}; got(role, data) is to be called with what arrives.
  constructor(channels) {
    this.channels = channels;
    this.waiting = {};
    this.pulled = 0;
  }
  got(role, data) {
    if (role === "source") {
      this.pulled += data.byteLength;
      if (this.pulled < this.wanted) return;
    }
    const resolve = this.waiting[role];
    delete this.waiting[role];
    resolve?.(data);
  }
  next(role) {
    return new Promise((resolve) => { this.waiting[role] = resolve; });
  }
  async bulk(total, size) {
    const began = performance.now();
    const counted = this.next("sink");
    await pour(this.channels.sink, total, size);
    this.channels.sink.send("count");
    if (Number(await counted) !== total) throw new Error("bytes are missing");
    return (performance.now() - began) / 1000;
  }
  async pull(total, size) {
    const began = performance.now();
    this.pulled = 0;
    this.wanted = total;
    const all = this.next("source");
    this.channels.source.send(`send ${total} ${size}`);
    await all;
    return (performance.now() - began) / 1000;
  }
  async ping() {
    const began = performance.now();
    const back = this.next("echo");
    this.channels.echo.send(new Uint8Array(32));
    await back;
    return (performance.now() - began) * 1000;
  }
  async echo(count, pause) {
    const times = [];
    for (let n = 0; n < count; n++) {
      times.push(await this.ping());
      if (pause) await new Promise((resolve) => setTimeout(resolve, pause));
    }
    return times;
  }
  async both(total, size) {
    const times = [];
    let busy = true;
    const bulk = this.bulk(total, size).finally(() => { busy = false; });
    while (busy) {
      times.push(await this.ping());
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    return [await bulk, times];
  }
}
