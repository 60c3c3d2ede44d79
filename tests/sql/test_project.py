"""The migrations on a project: run again, over an older table, with and without what a project may have."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from psycopg import errors

from .conftest import HERE, Project

ROOT = HERE.parents[1]
USER = "11111111-aaaa-4aaa-8aaa-111111111111"
AUTOMATIC_GRANTS = """
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
"""
"""What projects of before 2026 had."""

SHAPE = """
    select attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
    from pg_attribute left join pg_attrdef on (adrelid, adnum) = (attrelid, attnum)
    where attrelid = 'public.agents'::regclass and attnum > 0
        and attname not in ('public_url', 'project_path', 'tags')
    order by attname
"""
CONSTRAINTS = """
    select conname, replace(pg_get_constraintdef(oid, true), ' NOT VALID', '') from pg_constraint
    where conrelid = 'public.agents'::regclass and conname <> 'agents_owner_id_public_url_key'
    order by conname
"""
POLICIES = """
    select schemaname, tablename, policyname, permissive, roles::text, cmd, qual, with_check
    from pg_policies order by schemaname, tablename, policyname
"""
TABLE_RIGHTS = """
    select role, kind from unnest(array['anon', 'authenticated', 'service_role', 'authenticator']) role,
        unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) kind
    where has_table_privilege(role, 'public.agents', kind) order by role, kind
"""
CLEANUP_CALLERS = """
    select rolname from pg_roles
    where not rolsuper and has_function_privilege(rolname, 'public.cleanup_stale_agents()', 'execute')
        and not rolname like 'pg\\_%' order by rolname
"""
DEFINERS = """
    select proname, proconfig, rolname from pg_proc join pg_roles on pg_roles.oid = proowner
    where prosecdef and pronamespace = 'public'::regnamespace
"""
PUBLISHED = "select schemaname, tablename from pg_publication_tables where pubname = 'supabase_realtime'"


def everything(project: Project) -> dict[str, list[tuple[object, ...]]]:
    """All that the migrations state, as the catalogue has it."""
    queries = (SHAPE, CONSTRAINTS, POLICIES, TABLE_RIGHTS, CLEANUP_CALLERS, DEFINERS, PUBLISHED)
    return {query: project.rows("supabase_admin", query) for query in queries}


def test_running_again_changes_nothing(migrated: Project) -> None:
    migrated.user(USER)
    migrated.run("postgres", f"insert into public.agents (owner_id, name) values ('{USER}', 'box')")
    row, before = migrated.rows("postgres", "select * from public.agents"), everything(migrated)
    migrated.migrate()
    assert everything(migrated) == before
    assert migrated.rows("postgres", "select * from public.agents") == row


def test_the_documented_commands(project: Project) -> None:
    """What docs/supabase.md tells the reader to type for psql, typed."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "supabase.md").read_text(), re.DOTALL)
    migrate, look = (block for block in blocks if "psql " in block)
    migrate = re.sub(r"^DATABASE_URL=.*\n", "", migrate)
    path = f"{project.server.programs}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DATABASE_URL": project.url("postgres")}
    for script in (migrate, migrate, look):
        command = ["/bin/sh", "-ec", script]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
    assert project.rows("postgres", PUBLISHED) == [("public", "agents")]


def test_rights_are_what_is_granted_and_no_more(project: Project) -> None:
    """The same in a project that grants by itself and in one that does not."""
    project.run("postgres", AUTOMATIC_GRANTS)
    project.migrate()
    rights = project.rows("supabase_admin", TABLE_RIGHTS)
    own = {kind for role, kind in rights if role == "authenticated"}
    assert own == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert {role for role, _ in rights} == {"authenticated", "service_role"}
    assert project.rows("supabase_admin", CLEANUP_CALLERS) == [("postgres",), ("service_role",)]


def test_both_kinds_of_project_end_alike(project: Project, migrated: Project) -> None:
    project.run("postgres", AUTOMATIC_GRANTS)
    project.migrate()
    assert everything(project) == everything(migrated)


def test_definer_functions_have_a_fixed_path_and_a_plain_owner(migrated: Project) -> None:
    assert migrated.rows("supabase_admin", DEFINERS) == [
        ("cleanup_stale_agents", ['search_path=""'], "postgres")
    ]


def test_an_older_table_is_brought_to_the_same_shape(project: Project, migrated: Project) -> None:
    project.user(USER)
    project.run("postgres", AUTOMATIC_GRANTS, (HERE / "predecessor.sql").read_text())
    project.run(
        "postgres",
        f"""insert into public.agents (owner_id, name, public_url, status, metadata) values
            ('{USER}', 'box', 'ws://localhost:9800', null, null),
            ('{USER}', repeat('x', 99), 'ws://b', 'online', '{{}}')""",
    )
    for _ in range(2):
        project.migrate()
        assert everything(project) == everything(migrated)
    old = project.rows(
        "postgres", "select name, public_url, status, metadata from public.agents order by name"
    )
    assert old == [("box", "ws://localhost:9800", "offline", {}), ("x" * 99, "ws://b", "online", {})]
    project.run("postgres", f"insert into public.agents (owner_id, name) values ('{USER}', 'new')")
    with pytest.raises(errors.UniqueViolation, match="agents_owner_id_name_key"):
        project.run("postgres", f"insert into public.agents (owner_id, name) values ('{USER}', 'box')")


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ("drop publication supabase_realtime", []),
        ("select 1", [("public", "agents")]),
        ("drop publication supabase_realtime; create publication supabase_realtime for all tables", None),
    ],
    ids=["absent", "as made by Supabase", "for all tables"],
)
def test_the_publication(project: Project, given: str, published: list[tuple[str, str]] | None) -> None:
    project.run("supabase_admin", given)
    for _ in range(2):
        project.migrate()
    found = project.rows("postgres", PUBLISHED)
    assert found == published if published is not None else ("public", "agents") in found


def test_a_publication_made_later_is_joined_by_running_again(project: Project) -> None:
    project.run("postgres", "drop publication supabase_realtime")
    project.migrate()
    project.run(
        "supabase_admin",
        "create publication supabase_realtime",
        "alter publication supabase_realtime owner to postgres",
    )
    project.migrate()
    assert project.rows("postgres", PUBLISHED) == [("public", "agents")]


def test_stale_agents_are_marked_by_the_service_role_alone(migrated: Project) -> None:
    migrated.user(USER)
    migrated.run(
        "postgres",
        f"""insert into public.agents (owner_id, name, last_seen) values
            ('{USER}', 'stale', now() - interval '301 seconds'),
            ('{USER}', 'fresh', now() - interval '290 seconds')""",
    )
    for role in ("anon", "authenticated"):
        with pytest.raises(errors.InsufficientPrivilege):
            migrated.run("authenticator", f"set role {role}; select public.cleanup_stale_agents()")
    marked = "select public.cleanup_stale_agents()"
    with migrated.connect("authenticator") as connection:
        connection.execute("set role service_role")
        assert connection.execute(marked).fetchall() == [(1,)]
        assert connection.execute(marked).fetchall() == [(0,)]
    assert migrated.rows("postgres", "select name, status from public.agents order by name") == [
        ("fresh", "online"),
        ("stale", "offline"),
    ]


def test_rows_go_with_their_account(migrated: Project) -> None:
    migrated.user(USER)
    migrated.run("postgres", f"insert into public.agents (owner_id, name) values ('{USER}', 'box')")
    migrated.run("supabase_auth_admin", f"delete from auth.users where id = '{USER}'")
    assert migrated.rows("postgres", "select * from public.agents") == []


def test_the_shim_is_as_strict_as_a_project(project: Project) -> None:
    """Migrations may run policy statements on realtime.messages, and nothing else."""
    for statement in (
        "alter table realtime.messages enable row level security",
        "create index on realtime.messages (topic)",
        "create table realtime.ours (id int)",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            project.run("postgres", statement)
