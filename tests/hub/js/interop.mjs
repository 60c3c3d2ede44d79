// The official JavaScript client against a hub: sign in by a one-time link, keep rows, knock, hear, see presence.
// Arguments: the module to import supabase-js from, the hub's URL, its key, a token hash. Prints one JSON line.
const [modulePath, url, key, tokenHash] = process.argv.slice(2);
const { createClient } = await import(modulePath);

const deadline = setTimeout(() => fail("nothing came in time"), 15_000);

function fail(reason) {
  console.error(reason);
  process.exit(1);
}

const supabase = createClient(url, key, { auth: { persistSession: false, autoRefreshToken: false } });
const { data, error } = await supabase.auth.verifyOtp({ token_hash: tokenHash, type: "magiclink" });
if (error) fail(error.message);
const user = data.user.id;

const rows = await supabase.from("agents").select("name").order("name");
if (rows.error) fail(rows.error.message);

const heard = [];
const presence = [];
await supabase.realtime.setAuth(data.session.access_token);
const channel = supabase.channel(`user:${user}:agents`, {
  config: { private: true, broadcast: { self: false, ack: true }, presence: { key: "browser", enabled: true } },
});
const ready = new Promise((resolve) => {
  channel.on("broadcast", { event: "connection-ready" }, (message) => {
    heard.push(message.payload);
    resolve();
  });
});
channel.on("presence", { event: "sync" }, () => presence.push(Object.keys(channel.presenceState()).sort()));
await new Promise((resolve) => {
  channel.subscribe((status, problem) => {
    if (status === "SUBSCRIBED") resolve();
    else if (status !== "CLOSED") fail(`${status} ${problem?.message ?? ""}`);
  });
});
await channel.track({ what: "browser" });
const sent = await channel.send({ type: "broadcast", event: "connection-request", payload: { agentId: "żółw" } });
await ready;
const present = channel.presenceState();
await channel.untrack();
await supabase.removeChannel(channel);

const stranger = await new Promise((resolve) => {
  const other = supabase.channel("user:11111111-1111-4111-8111-111111111111:agents", { config: { private: true } });
  other.subscribe((status, problem) => {
    if (status === "CHANNEL_ERROR") {
      supabase.removeChannel(other);
      resolve(problem?.message ?? "");
    }
  });
});
await supabase.auth.signOut();
clearTimeout(deadline);
console.log(JSON.stringify({ user, rows: rows.data, sent, heard, present, presence, stranger }));
process.exit(0);
