"""What people look at: the tree of `tidegate status` in a terminal, and the pages of `tidegate ui`.

Both draw the same values (`view`), read from what the agents stored (`seen`); neither decides anything.
"""
