// A libdatachannel peer, driven by one JSON command per line.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { LABELS, Near, serve } from "./core.mjs";

const { PeerConnection } = createRequire(`${process.argv[2]}/`)("node-datachannel").default ??
  createRequire(`${process.argv[2]}/`)("node-datachannel");
const pc = new PeerConnection("near", { iceServers: [], maxMessageSize: 262144 });
const gathered = new Promise((resolve) => pc.onGatheringStateChange((state) => state === "complete" && resolve()));
const channels = {};
const near = new Near(channels);
let began = 0, opened;

function wrap(dc) {
  return {
    label: dc.getLabel(),
    send: (data) => (typeof data === "string" ? dc.sendMessage(data) : dc.sendMessageBinary(data)),
    buffered: () => dc.bufferedAmount(),
    low: (callback) => {
      dc.setBufferedAmountLowThreshold(1 << 18);
      dc.onBufferedAmountLow(() => { dc.onBufferedAmountLow(() => {}); callback(); });
    },
  };
}
const kept = [];
pc.onDataChannel((dc) => {
  kept.push(dc);
  dc.onMessage(serve(wrap(dc)));
});
const commands = {
  async offer() {
    began = performance.now();
    const waits = [];
    for (const [role, label] of Object.entries(LABELS)) {
      const dc = pc.createDataChannel(label);
      channels[role] = wrap(dc);
      dc.onMessage((data) => near.got(role, data));
      waits.push(new Promise((resolve) => dc.onOpen(resolve)));
    }
    opened = Promise.all(waits).then(() => (performance.now() - began) / 1000);
    await gathered;
    return pc.localDescription().sdp;
  },
  async accept({ sdp }) {
    pc.setRemoteDescription(sdp, "offer");
    await gathered;
    return pc.localDescription().sdp;
  },
  async answer({ sdp }) { pc.setRemoteDescription(sdp, "answer"); },
  opened: () => opened,
  bulk: ({ bytes, size }) => near.bulk(bytes, size),
  pull: ({ bytes, size }) => near.pull(bytes, size),
  echo: ({ count, pause }) => near.echo(count, pause),
  both: ({ bytes, size }) => near.both(bytes, size),
  async usage() {
    const { user, system } = process.cpuUsage();
    return { cpu: (user + system) / 1e6, rss: process.memoryUsage().rss };
  },
};
createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const command = JSON.parse(line);
    try {
      console.log(JSON.stringify((await commands[command.do](command)) ?? null));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error) }));
    }
  })
  .on("close", () => process.exit(0));
