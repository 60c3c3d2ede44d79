-- Changes of agents reach their owners as postgres_changes. A database without the publication is left alone.

do $$
begin
    if exists (select 1 from pg_publication where pubname = 'supabase_realtime')
        and not exists (
            select 1
            from pg_publication_tables
            where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'agents'
        )
    then
        alter publication supabase_realtime add table public.agents;
    end if;
end
$$;
