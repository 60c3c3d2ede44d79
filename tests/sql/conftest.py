"""A real PostgreSQL for the session; databases that look like Supabase projects, made from one template."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from doorstep.testing.postgres import Postgres, PostgresMissingError, throw_away_postgres

HERE = Path(__file__).parent
MIGRATIONS = sorted((HERE.parents[1] / "sql").glob("*.sql"))
SUPERUSER = "supabase_admin"
LOGINS = ("postgres", "authenticator", "supabase_realtime_admin", "supabase_auth_admin")
TEMPLATE = "project_template"

Connection = psycopg.Connection[tuple[object, ...]]


class Project:
    """One database of the server."""

    def __init__(self, server: Postgres, database: str) -> None:
        self.server = server
        self.database = database

    def url(self, role: str) -> str:
        return self.server.url(role, self.database)

    def connect(self, role: str, *, autocommit: bool = True) -> Connection:
        """Log in as ``role``."""
        return psycopg.connect(self.url(role), autocommit=autocommit)

    def run(self, role: str, *statements: str) -> None:
        """Run scripts as ``role``, each in one transaction."""
        with self.connect(role) as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, role: str, query: str) -> list[tuple[object, ...]]:
        with self.connect(role) as connection:
            return connection.execute(query).fetchall()

    def migrate(self) -> None:
        """Run sql/ as the one who runs migrations in a project: each file in one transaction."""
        self.run("postgres", *(path.read_text() for path in MIGRATIONS))

    def user(self, identity: str) -> str:
        """Make an account, as Auth does."""
        self.run("supabase_auth_admin", f"insert into auth.users (id) values ('{identity}')")
        return identity


NewProject = Callable[[], Project]


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    try:
        with throw_away_postgres(superuser=SUPERUSER) as running:
            _make_template(running)
            yield running
    except PostgresMissingError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def new_project(server: Postgres) -> NewProject:
    """Makes projects with nothing of ours in them. They go with the server."""
    numbers = itertools.count(1)

    def make() -> Project:
        database = f"project_{next(numbers)}"
        with psycopg.connect(server.url(SUPERUSER), autocommit=True) as connection:
            create = sql.SQL("create database {} template {}")
            connection.execute(create.format(sql.Identifier(database), sql.Identifier(TEMPLATE)))
        return Project(server, database)

    return make


@pytest.fixture
def project(new_project: NewProject) -> Project:
    return new_project()


@pytest.fixture
def migrated(new_project: NewProject) -> Project:
    project = new_project()
    project.migrate()
    return project


def _make_template(server: Postgres) -> None:
    with psycopg.connect(server.url(SUPERUSER), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    with psycopg.connect(server.url(SUPERUSER, TEMPLATE), autocommit=True) as connection:
        connection.execute((HERE / "shim.sql").read_text())
        for role in LOGINS:
            alter = sql.SQL("alter role {} password {}")
            connection.execute(alter.format(sql.Identifier(role), sql.Literal(server.password)))
