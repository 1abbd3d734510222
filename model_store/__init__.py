"""Archives on disk: found by name, unpacked safely, described by typed manifests."""
