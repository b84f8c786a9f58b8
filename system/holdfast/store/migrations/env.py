"""Alembic's entry point; uses the connection that ``holdfast.store.migrate`` passes."""

from alembic import context

from holdfast.store.schema import metadata

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table_schema=attributes["schema"],
)
with context.begin_transaction():
    context.run_migrations()
