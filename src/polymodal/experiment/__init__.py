"""Tables and figures of the papers as files of settings, and searches under one budget."""
