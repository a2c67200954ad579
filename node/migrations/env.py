"""Run by Alembic: the migrations on the connection that `node.migrations.upgrade` has opened."""

from alembic import context

from node.records import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, transactional_ddl=True
)
context.run_migrations()
