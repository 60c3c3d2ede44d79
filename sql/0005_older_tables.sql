-- Brings a table of agents that an older version made to the shape 0001 states, and changes nothing on a new one.
-- Columns that are no longer used stay, with what is in them.

alter table public.agents
    add column if not exists platform text,
    add column if not exists version text,
    add column if not exists public_key text,
    add column if not exists metadata jsonb,
    add column if not exists created_at timestamptz default now();

update public.agents set status = 'offline' where status is null;
update public.agents set metadata = '{}' where metadata is null;
update public.agents set created_at = now() where created_at is null;

alter table public.agents
    alter column owner_id set default auth.uid(),
    alter column status set default 'online',
    alter column status set not null,
    alter column last_seen set default now(),
    alter column metadata set default '{}',
    alter column metadata set not null,
    alter column created_at set default now(),
    alter column created_at set not null;

do $$
declare
    present text[] := array(select conname from pg_constraint where conrelid = 'public.agents'::regclass);
begin
    -- "not valid": rows with longer names stay until they are changed.
    if not 'agents_name_check' = any (present) then
        alter table public.agents
            add constraint agents_name_check check (char_length(name) between 1 and 64) not valid;
    end if;
    if not 'agents_status_check' = any (present) then
        alter table public.agents
            add constraint agents_status_check check (status in ('online', 'offline'));
    end if;
    if not 'agents_owner_id_name_key' = any (present) then
        alter table public.agents add constraint agents_owner_id_name_key unique (owner_id, name);
    end if;
    if exists (
        select 1
        from information_schema.columns
        where table_schema = 'public' and table_name = 'agents' and column_name = 'public_url'
    ) then
        alter table public.agents alter column public_url drop not null;
    end if;
end
$$;

-- Replaced by the policies of 0001, which name the role they are for.
drop policy if exists "Users can view own agents" on public.agents;
drop policy if exists "Users can insert own agents" on public.agents;
drop policy if exists "Users can update own agents" on public.agents;
drop policy if exists "Users can delete own agents" on public.agents;
