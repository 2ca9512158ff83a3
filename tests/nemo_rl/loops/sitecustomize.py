"""In each Python of a Ray that the loops start: nemo_rl can be imported there too."""

import os

if os.environ.get("TINY_CHECKOUT"):
    import stubs

    stubs.find(os.environ["TINY_CHECKOUT"])
