"""Models of subgraphs between speakers and within one: DEDNet, and AMB-DSGDN that is built on it."""
