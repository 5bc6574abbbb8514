"""Extensions of erc-toolkit, one file each."""
