"""Reading of numbers, times, JSON and tables that users give, with every fault as one line."""
