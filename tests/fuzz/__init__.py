"""Programs that look for failures with random input, each run as ``python -m tests.fuzz.NAME``."""
