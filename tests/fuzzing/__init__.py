"""Random inputs for parsers: each module's PARSERS maps a parser's name to a function that feeds it one input."""
