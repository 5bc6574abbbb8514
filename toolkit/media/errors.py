"""Why a file cannot be used, and bounds that a small file cannot exceed with a large claim."""

# A header may claim one sample per second, or a stamp the year 3000: what would not fit the memory is not decoded.
MOST_S = 8 * 3600.0
LEAST_RATE, MOST_RATE = 1000, 1_000_000
# A few bytes can claim hours. A picture that stays longer is not repeated; all gaps in the sound together are longer
# only if there is sound in between, as in a call in which somebody is silent most of the time.
MOST_GAP_S = 3600
MOST_PIXELS = 1 << 26


class MediaError(Exception):
    """A file cannot be used; the message is the reason that is written to the store."""
