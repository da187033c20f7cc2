"""Files as whole things: written beside their target and put into place, watched while they are read."""
