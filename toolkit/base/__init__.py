"""What every other subpackage builds on: errors, files, progress, devices, processes, hashes; nothing on emotions."""
