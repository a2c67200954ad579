"""One file a step of the schema, in order of `down_revision`."""
