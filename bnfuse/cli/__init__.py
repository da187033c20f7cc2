"""The command line: parse, call the use case, print, exit code. Nothing else happens here.

Only click is imported before a command runs, so that ``bnfuse --help`` answers at once.
"""

from bnfuse.cli.app import main

__all__ = ["main"]
