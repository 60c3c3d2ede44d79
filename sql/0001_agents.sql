-- The agents table: one row per agent, owned by a user. Every statement may be run again.

create table if not exists public.agents (
    id uuid primary key default gen_random_uuid(),
    owner_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
    name text not null constraint agents_name_check check (char_length(name) between 1 and 64),
    platform text,
    version text,
    status text not null default 'online'
        constraint agents_status_check check (status in ('online', 'offline')),
    last_seen timestamptz not null default now(),
    public_key text,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint agents_owner_id_name_key unique (owner_id, name)
);

create index if not exists agents_last_seen_idx on public.agents (last_seen);

alter table public.agents enable row level security;

-- Grants are explicit: new projects give tables none, and the policies on realtime.messages read this table.
revoke all on table public.agents from public, anon, authenticated;
grant select, insert, update, delete on table public.agents to authenticated;
grant all on table public.agents to service_role;

-- (select auth.uid()) is evaluated once per statement, not once per row.
drop policy if exists "Owners see their agents" on public.agents;
create policy "Owners see their agents" on public.agents
    for select to authenticated
    using (owner_id = (select auth.uid()));

drop policy if exists "Owners add their agents" on public.agents;
create policy "Owners add their agents" on public.agents
    for insert to authenticated
    with check (owner_id = (select auth.uid()));

drop policy if exists "Owners change their agents" on public.agents;
create policy "Owners change their agents" on public.agents
    for update to authenticated
    using (owner_id = (select auth.uid()))
    with check (owner_id = (select auth.uid()));

drop policy if exists "Owners remove their agents" on public.agents;
create policy "Owners remove their agents" on public.agents
    for delete to authenticated
    using (owner_id = (select auth.uid()));
