"""The services' definitions, and ``services.binpb``, which ``make protos`` compiles from them."""
