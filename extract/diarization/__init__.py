"""From a bare recording to its turns: where there is voice, what is said, and who speaks.

Nothing outside of this folder imports it at module level, and it imports the packages of the extra
`erc-toolkit[recordings]` only when it computes.
"""
