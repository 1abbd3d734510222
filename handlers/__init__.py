"""Default handlers that an archive can name instead of shipping its own."""
