-- The table as the connector before Doorstep left it in a project: the effective state of its four migrations.

create table public.agents (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    public_url text not null,
    owner_id uuid not null references auth.users (id) on delete cascade,
    status text default 'online' check (status in ('online', 'offline')),
    last_seen timestamptz not null default now(),
    version text,
    platform text,
    metadata jsonb default '{}',
    created_at timestamptz default now(),
    project_path text,
    tags text[],
    public_key text,
    unique (owner_id, name),
    unique (owner_id, public_url)
);
alter table public.agents enable row level security;
grant all on table public.agents to anon, authenticated, service_role;

create policy "Users can view own agents" on public.agents for select using (auth.uid() = owner_id);
create policy "Users can insert own agents" on public.agents for insert with check (auth.uid() = owner_id);
create policy "Users can update own agents" on public.agents for update using (auth.uid() = owner_id);
create policy "Users can delete own agents" on public.agents for delete using (auth.uid() = owner_id);

alter publication supabase_realtime add table public.agents;

create function public.cleanup_stale_agents() returns void language plpgsql security definer as $$
begin
    update public.agents set status = 'offline' where last_seen < now() - interval '5 minutes';
end
$$;
