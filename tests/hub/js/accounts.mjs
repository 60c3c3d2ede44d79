// Accounts, sessions, links and rows by the official JavaScript client. Prints one JSON line of what it was told.
// Arguments: the module to import supabase-js from, the hub's URL, its public and its secret key.
const [modulePath, url, key, secret] = process.argv.slice(2);
const { createClient } = await import(modulePath);

const plain = { auth: { persistSession: false, autoRefreshToken: false } };
const one = createClient(url, key, plain);
const other = createClient(url, key, plain);
const service = createClient(url, secret, plain);
const said = {};

/** The data of an answer that must be good. */
function good({ data, error }) {
  if (error) throw error;
  return data;
}

const fault = ({ error }) => [error?.status, error?.code];
const refusal = ({ status, error }) => [status, error?.code];

const account = { email: "js@example.test", password: "long enough" };
const { user, session } = good(await one.auth.signUp({ ...account, options: { data: { theme: "dark" } } }));
said.signedUp = [user.email, user.role, user.user_metadata, user.identities.length];
said.again = fault(await other.auth.signUp(account));
said.wrong = fault(await other.auth.signInWithPassword({ ...account, password: "wrong" }));
said.weak = fault(await other.auth.signUp({ email: "weak@example.test", password: "x" }));
said.updated = good(await one.auth.updateUser({ data: { theme: "light" } })).user.user_metadata;
const refreshed = good(await one.auth.refreshSession()).session;
said.rotated = refreshed.refresh_token !== session.refresh_token;
said.claims = good(await one.auth.getClaims()).claims.role;

const agents = () => one.from("agents");
const inserted = await agents().insert({ name: "box" }).select().single();
said.inserted = [inserted.status, inserted.data.name, inserted.data.version];
good(await agents().insert([{ name: "a,b", version: "1" }, { name: 'q"t' }]).select());
const filtered = await agents()
  .select("label:name", { count: "exact" })
  .or('name.eq."a,b",and(name.ilike.B*,version.is.null),name.in.("q\\"t")')
  .not("name", "in", '("nothing")')
  .order("name");
said.filtered = [filtered.status, filtered.data.slice(0, 2), filtered.count];
const paged = await agents().select("name", { count: "planned" }).order("name", { nullsFirst: true }).range(0, 1);
said.paged = [paged.status, paged.data.length, paged.count];
const upserted = await agents()
  .upsert({ name: "box", version: "2" }, { onConflict: "owner_id,name" })
  .select("name,version");
said.upserted = [upserted.status, upserted.data];
said.single = refusal(await agents().select().single());
said.maybe = (await agents().select().eq("name", "none").maybeSingle()).data;
said.column = refusal(await agents().select("nothing"));
said.clash = refusal(await agents().insert({ name: "box" }));
said.anonymous = refusal(await other.from("agents").select());
const counted = await agents().select("*", { count: "exact", head: true });
said.counted = [counted.status, counted.count];
const deleted = await agents().delete().eq("name", "a,b");
said.deleted = [deleted.status, deleted.data];
said.cleaned = good(await service.rpc("cleanup_stale_agents"));

const made = good(await service.auth.admin.createUser({ email: "made@example.test", email_confirm: true })).user;
const listed = good(await service.auth.admin.listUsers());
said.listed = [listed.users.map((each) => each.email).sort(), listed.total];
said.changed = good(
  await service.auth.admin.updateUserById(made.id, { app_metadata: { team: "x" } }),
).user.app_metadata;
const link = good(await service.auth.admin.generateLink({ type: "magiclink", email: made.email })).properties;
const token = { token_hash: link.hashed_token, type: "magiclink" };
const linked = good(await other.auth.verifyOtp(token)).user.email;
said.linked = [linked, fault(await other.auth.verifyOtp(token))];
said.mail = fault(await other.auth.resetPasswordForEmail(made.email));
good(await service.auth.admin.deleteUser(made.id));
await one.auth.signOut();
said.signedOut = fault(await one.auth.refreshSession({ refresh_token: refreshed.refresh_token }));
console.log(JSON.stringify(said));
process.exit(0);
