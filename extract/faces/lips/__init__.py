"""Who speaks, by the lips: LR-ASD's network on each face that is tracked, and the audio of the recording."""
