-- Agents that vanished without saying goodbye are marked offline five minutes after they were last seen.
-- Run it from a schedule (pg_cron) or as the service role; ordinary users cannot.

-- An older version's returns nothing, and a function's type cannot be replaced.
drop function if exists public.cleanup_stale_agents();

create function public.cleanup_stale_agents()
returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    marked integer;
begin
    update public.agents
    set status = 'offline'
    where status = 'online' and last_seen < now() - interval '5 minutes';
    get diagnostics marked = row_count;
    return marked;
end
$$;

revoke all on function public.cleanup_stale_agents() from public, anon, authenticated;
grant execute on function public.cleanup_stale_agents() to service_role;
