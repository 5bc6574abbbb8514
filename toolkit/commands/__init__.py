"""The command line: its table of commands, and the commands that are part of neither extraction nor training."""
