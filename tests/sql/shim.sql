-- What a Supabase project provides, as far as sql/ and the questions of Realtime and PostgREST touch it.
-- Run by the superuser supabase_admin in an empty database. Roles belong to the cluster, so they may be there.

do $$
declare
    statement text;
begin
    foreach statement in array array[
        'create role anon nologin noinherit',
        'create role authenticated nologin noinherit',
        'create role service_role nologin noinherit bypassrls',
        'create role authenticator login noinherit',                        -- PostgREST
        'create role supabase_auth_admin login noinherit createrole',       -- Auth
        'create role supabase_realtime_admin login noinherit',              -- Realtime
        'create role postgres login createdb createrole bypassrls'          -- who runs migrations: no superuser
    ] loop
        begin
            execute statement;
        exception when duplicate_object then null;
        end;
    end loop;
end
$$;
grant anon, authenticated, service_role to authenticator, supabase_realtime_admin, postgres;

grant all on schema public to postgres;
grant usage on schema public to anon, authenticated, service_role;

-- Auth ----------------------------------------------------------------------------------------------------------

create schema auth authorization supabase_auth_admin;
grant usage on schema auth to anon, authenticated, service_role, postgres, supabase_realtime_admin;

create table auth.users (
    id uuid primary key,
    email text unique,
    created_at timestamptz default now()
);
alter table auth.users owner to supabase_auth_admin;
grant all on table auth.users to postgres;

create function auth.jwt() returns jsonb language sql stable as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb
$$;

create function auth.uid() returns uuid language sql stable as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
    )::uuid
$$;

-- Realtime ------------------------------------------------------------------------------------------------------

create schema realtime;
grant usage on schema realtime to anon, authenticated, service_role, postgres;
grant all on schema realtime to supabase_realtime_admin;

create function realtime.topic() returns text language sql stable as $$
    select nullif(current_setting('realtime.topic', true), '')
$$;

create table realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp not null default now(),
    inserted_at timestamp not null default now(),
    id uuid not null default gen_random_uuid(),
    primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages enable row level security;
grant select, insert, update on table realtime.messages to anon, authenticated, service_role;

do $$
declare
    day date;
begin
    for day in select generate_series(current_date - 1, current_date + 3, '1 day') loop
        execute format(
            'create table realtime.messages_%s partition of realtime.messages for values from (%L) to (%L)',
            to_char(day, 'YYYY_MM_DD'), day, day + 1
        );
    end loop;
end
$$;

-- postgres does not own realtime.messages. An extension of Supabase's (supautils) lets it run policy statements on
-- that table and nothing else. Here it is a member of the owner, and a trigger refuses everything else.
grant supabase_realtime_admin to postgres;

create function public.only_policies_in_realtime() returns event_trigger language plpgsql as $$
begin
    if current_user = 'postgres' and exists (
        select 1
        from pg_event_trigger_ddl_commands()
        where schema_name in ('realtime', 'auth') and object_type <> 'policy'
    ) then
        raise insufficient_privilege using message = 'must be owner of table messages';
    end if;
end
$$;
create event trigger only_policies_in_realtime on ddl_command_end
    execute function public.only_policies_in_realtime();

create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
