"""The command line, ``attnc``: one file a command, each importing only what it runs."""
