"""The command line, a file a command; `__main__` brings them together."""
