"""The command line: thin. It parses, calls the library, prints. torch is imported only by commands that need it."""

from fallline.cli.main import main

__all__ = ["main"]
