"""The planted deaths, one a file: what it plants, how the host has to call it, and the code that does it."""
