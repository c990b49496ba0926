"""alembic's entry point: works on the connection and in the transaction of `database.migrate`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
