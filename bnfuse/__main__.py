"""``python -m bnfuse``: the same as the ``bnfuse`` command."""

from bnfuse.cli import main

if __name__ == "__main__":
    main(prog_name="bnfuse")
