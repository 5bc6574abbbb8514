"""Features in a store become a trained model of emotion in conversations, and its table of results."""
