"""The command line. It parses, shows progress and prints; everything else is the public API."""

from codesign.cli.main import main

__all__ = ["main"]
