"""Numbers as people read them: shares in percent, counts with their noun, lengths of time."""


def percent(share: float, digits: int = 2) -> str:
    """Return a share of 0 to 1 in percent."""
    return f"{share:.{digits}%}"


def short_percent(probability: float) -> str:
    """Return a probability in percent; only the impossible is 0%, and only the certain 100%."""
    value = float(probability)
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.1%}"


def count(number: int, noun: str) -> str:
    """Return a number of things, one or more: "1 epoch", "2 epochs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a length of time."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
