"""Fuzzers: programs that try random cases until time is over. pytest does not run them.

Each is a module with a function that makes one random case and says what went wrong in it, if anything did:
``python -m tests.fuzz.differential``, ``bad_input`` or ``checkpoints``, with ``--help`` for more.
"""
