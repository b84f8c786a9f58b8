"""Alembic's entry point; uses the connection that ``holdfast.store.migrate`` passes."""

from alembic import context

from holdfast.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
