// The Chromium peer: the same commands as node.mjs, as window.peer. Follows core.mjs in one script.
function wrapChannel(dc) {
  dc.binaryType = "arraybuffer";
  dc.bufferedAmountLowThreshold = 1 << 18;
  return {
    label: dc.label,
    send: (data) => dc.send(data),
    buffered: () => dc.bufferedAmount,
    low: (callback) => dc.addEventListener("bufferedamountlow", callback, { once: true }),
  };
}
window.makePeer = () => {
  const pc = new RTCPeerConnection({ iceServers: [] });
  const channels = {}, near = new Near(channels);
  const gathered = new Promise((resolve) => {
    pc.addEventListener("icegatheringstatechange", () => pc.iceGatheringState === "complete" && resolve());
  });
  let opened;
  pc.ondatachannel = ({ channel }) => {
    const handle = serve(wrapChannel(channel));
    channel.onmessage = (event) => handle(event.data);
  };
  window.peer = {
    pc,
    async offer() {
      const began = performance.now(), waits = [];
      for (const [role, label] of Object.entries(LABELS)) {
        const dc = pc.createDataChannel(label);
        channels[role] = wrapChannel(dc);
        dc.onmessage = (event) => near.got(role, event.data);
        waits.push(new Promise((resolve) => { dc.onopen = resolve; }));
      }
      opened = Promise.all(waits).then(() => (performance.now() - began) / 1000);
      await pc.setLocalDescription();
      await gathered;
      return pc.localDescription.sdp;
    },
    async accept({ sdp }) {
      await pc.setRemoteDescription({ type: "offer", sdp });
      await pc.setLocalDescription();
      await gathered;
      return pc.localDescription.sdp;
    },
    answer: ({ sdp }) => pc.setRemoteDescription({ type: "answer", sdp }),
    opened: () => opened,
    bulk: ({ bytes, size }) => near.bulk(bytes, size),
    pull: ({ bytes, size }) => near.pull(bytes, size),
    echo: ({ count, pause }) => near.echo(count, pause),
    both: ({ bytes, size }) => near.both(bytes, size),
  };
};
