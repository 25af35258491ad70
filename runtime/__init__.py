"""How it is run: native code in memory, threads, arenas, caches and compiled models."""
