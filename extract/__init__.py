"""Raw video, audio and transcripts become features in one HDF5 store."""
