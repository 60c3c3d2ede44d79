-- Who may join and use the private channels. The same rules are data in doorstep.protocol.access.
--
-- Realtime asks these policies with realtime.topic() set to the channel's name, as the role and claims of the
-- channel's token: SELECT is the right to read, INSERT the right to write; extension is broadcast or presence.

-- user:{uid}:agents – the owner's agents and clients: presence, knocks.
drop policy if exists "Owners read their agents channel" on realtime.messages;
create policy "Owners read their agents channel" on realtime.messages
    for select to authenticated
    using (
        extension in ('broadcast', 'presence')
        and (select realtime.topic()) = 'user:' || (select auth.uid())::text || ':agents'
    );

drop policy if exists "Owners write their agents channel" on realtime.messages;
create policy "Owners write their agents channel" on realtime.messages
    for insert to authenticated
    with check (
        extension in ('broadcast', 'presence')
        and (select realtime.topic()) = 'user:' || (select auth.uid())::text || ':agents'
    );

-- agent:{id}:signaling – one agent and those connecting to it: offers, answers, candidates.
drop policy if exists "Owners read their agents' signaling" on realtime.messages;
create policy "Owners read their agents' signaling" on realtime.messages
    for select to authenticated
    using (
        extension = 'broadcast'
        and exists (
            select 1
            from public.agents
            where agents.owner_id = (select auth.uid())
                and 'agent:' || agents.id::text || ':signaling' = (select realtime.topic())
        )
    );

drop policy if exists "Owners write their agents' signaling" on realtime.messages;
create policy "Owners write their agents' signaling" on realtime.messages
    for insert to authenticated
    with check (
        extension = 'broadcast'
        and exists (
            select 1
            from public.agents
            where agents.owner_id = (select auth.uid())
                and 'agent:' || agents.id::text || ':signaling' = (select realtime.topic())
        )
    );
