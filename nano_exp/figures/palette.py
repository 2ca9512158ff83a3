"""Colours of all pictures: Okabe and Ito's, which colour-blind eyes tell apart, and dashes where there are more lines.

html_report/page.js has the same.
"""

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B6BB1")
DASHES = ("-", "--", ":", "-.")
#: Of heat maps: even in lightness, for eyes of all kinds and in grey.
HEAT = "cividis"


def style(place: int) -> dict[str, str]:
    """Colour and dash of the line at this place."""
    return {"color": SERIES[place % len(SERIES)], "linestyle": DASHES[place // len(SERIES) % len(DASHES)]}
