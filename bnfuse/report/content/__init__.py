"""What reports say, section by section, whatever the form: one function for each section."""
