"""A site's file from what the cluster shows: `look` asks, `propose` decides, `write` writes.

    look.looked() -> Look -> propose.proposal(look) -> Proposal -> write.text(...)

`propose` is a function from texts to keys, so that it is tested with the texts of clusters that are not here.
"""
