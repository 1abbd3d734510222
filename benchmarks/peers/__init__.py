"""What ``bench_peers.py`` needs to serve the same models by flambeau and by others."""
