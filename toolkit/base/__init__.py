"""What every room stands on: errors, files, progress, devices, processes, hashes. It knows nothing of emotions."""
