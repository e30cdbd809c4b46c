"""Programs that say what others would, where those are not installed."""


def say(folder, name, said="", code=0):
    """Make a program in a folder that prints a text and ends with an exit code."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {code}\n")
    path.chmod(0o755)
