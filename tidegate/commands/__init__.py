"""The commands of `tidegate`, a file a group; each parses, calls, prints, and decides nothing.

Heavy imports belong inside the command that needs them: `tidegate --help` reads all of these files.
"""
