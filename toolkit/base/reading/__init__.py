"""Reading of what users give: text of any encoding, numbers, times, JSON and tables, with every fault as one line."""
