-- The private channels over which a session goes when there is no other road. The same rules are data in
-- doorstep.protocol.access.

-- agent:{id}:wire:{session} – an agent and the client of one session: frames, sealed end to end.
drop policy if exists "Owners read their agents' wires" on realtime.messages;
create policy "Owners read their agents' wires" on realtime.messages
    for select to authenticated
    using (
        extension = 'broadcast'
        and exists (
            select 1
            from public.agents
            where agents.owner_id = (select auth.uid())
                and starts_with((select realtime.topic()), 'agent:' || agents.id::text || ':wire:')
        )
    );

drop policy if exists "Owners write their agents' wires" on realtime.messages;
create policy "Owners write their agents' wires" on realtime.messages
    for insert to authenticated
    with check (
        extension = 'broadcast'
        and exists (
            select 1
            from public.agents
            where agents.owner_id = (select auth.uid())
                and starts_with((select realtime.topic()), 'agent:' || agents.id::text || ':wire:')
        )
    );
