"""What bnfuse does, one module each: read, plan, apply, write, prove, measure, compare."""
