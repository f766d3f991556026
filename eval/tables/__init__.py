"""Tables of results and their spellings."""
