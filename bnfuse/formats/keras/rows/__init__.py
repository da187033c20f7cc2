"""The op table: which rules of core each Keras layer obeys."""
