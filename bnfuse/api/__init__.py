"""bnfuse for Python programs: the commands as functions, on files and on models in memory."""
