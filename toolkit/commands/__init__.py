"""The command line: its table of commands, and the commands that belong to neither extraction nor training."""
