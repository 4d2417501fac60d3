"""The command line. It parses, shows progress and prints; everything else is the public API."""

import sys

try:
    from codesign.cli.main import main
except KeyboardInterrupt:  # while the commands are loaded
    sys.stderr.write("codesign: interrupted\n")
    sys.exit(130)

__all__ = ["main"]
